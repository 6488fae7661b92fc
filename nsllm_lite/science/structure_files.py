"""Files of crystals: CIF, POSCAR, pymatgen's JSON, tables with a `cif` column, and folders of them.

What a file holds that is no crystal comes out with the reason, and the rest goes on. Files say little that can be
trusted: the space group is P 1 throughout in CDVAE's. Nor is all that pymatgen makes of them: it reads deuterium as
hydrogen, a coordinate "." as 0 and a group that it does not know as P 1, leaves out atoms of occupancy "." and sites
named OH, adds hydrogens to none of the sites that state them, names the elements of a POSCAR without names H and He,
and keeps the last of two blocks of one name; all these are refused. Its JSON is read here, since pymatgen's own
decoder imports whatever module the file names.
"""

import csv
import re
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from itertools import chain, takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from nsllm_lite.errors import UserError, not_installed
from nsllm_lite.formats.records import RecordError, read_records
from nsllm_lite.science.crystal import KNOWN, MAX_SITES, REACH, Crystal, CrystalError, closest, of_structure

if TYPE_CHECKING:
    from pymatgen.core import Structure

TABLES, JSONS = {".csv": ",", ".tsv": "\t"}, (".json", ".jsonl")
POSCARS = re.compile(r"(POSCAR|CONTCAR)([._-].*)?|.*\.(vasp|poscar)", re.IGNORECASE)
ARCHIVES = (".zip", ".gz", ".bz2", ".xz", ".tar", ".tgz", ".7z", ".rar")
NAMES = ("material_id", "id", "name", "jid")  # columns and keys of a crystal's name
POINTER = "version https://git-lfs"
MAX_TEXT = 1 << 20  # characters of one CIF; 500 sites take 50,000
MAX_CELL = 1 << 28  # characters, of a table
MAX_POSITIONS = 20_000  # rows of sites times operations of symmetry: pymatgen compares each with all others
WORD = re.compile(r"'[^']*'|\"[^\"]*\"|\S+")
COORDINATES = tuple(f"_atom_site_fract_{axis}" for axis in "xyz")
NOT_STATED = {".", "?"}
GROUP = re.compile(r"_(symmetry|space_group)_.*(name|number|xyz)", re.IGNORECASE)
NO_GROUP = {"P1", "1", "x,y,z"} | NOT_STATED
LFS = "a Git LFS pointer in place of the file"
NO_FILE = "no file of crystals"
NEEDED = "Needed are .cif, POSCAR, pymatgen's .json or .jsonl, .csv or .tsv with a `cif` column, or folders of them."


class Found(NamedTuple):
    """A crystal of a file or, where `reason` is not empty, why it is none; `detail` is what the library said."""

    name: str
    crystal: Crystal | None
    reason: str = ""
    detail: str = ""


def read_structures(paths: Sequence[Path]) -> Iterator[Found]:
    """All that the files and folders hold, in order; names that repeat are numbered.

    Raises:
        UserError: pymatgen is not installed, a path is absent, or a file that is named itself is none of crystals, an
            archive, a Git LFS pointer, or a table without a column `cif`. All but the first before anything is read.
    """
    for path in paths:
        if not path.is_dir():
            _require_file(path)
    require_pymatgen()
    seen: Counter[str] = Counter()
    for found in chain.from_iterable(map(_of_path, paths)):
        name = found.name
        while seen[name]:
            seen[found.name] += 1
            name = f"{found.name}#{seen[found.name]}"
        seen[name] += 1
        yield found._replace(name=name)


def require_pymatgen() -> None:
    try:
        import pymatgen.io.cif  # noqa: F401
        import spglib  # noqa: F401
    except ModuleNotFoundError as error:
        raise not_installed(error, "materials") from None


def files_in(path: Path) -> list[Path]:
    """The file, or all of a folder but hidden ones: its links too, of which those to folders are not followed."""
    if not path.is_dir():
        return [path]
    inside = (file for file in path.rglob("*") if file.is_file() or file.is_symlink())
    return sorted(file for file in inside if not any(part.startswith(".") for part in file.relative_to(path).parts))


def of_cif(text: str) -> Iterator[Crystal | CrystalError]:
    """The crystals of a CIF's text, one for each block that has sites."""
    blocks = [f"data_{block}" for block in re.split(r"^[ \t]*data_", text, flags=re.MULTILINE | re.IGNORECASE)[1:]]
    with_sites = [block for block in blocks if "_atom_site_" in block]
    if not blocks:
        yield CrystalError("no CIF")
    elif not with_sites:
        yield CrystalError("a CIF without sites")
    for block in with_sites:
        yield _tried(partial(_of_block, block))


def of_poscar(text: str) -> Crystal:
    """Raises CrystalError where it is none, or does not name its elements."""
    from pymatgen.io.vasp.inputs import Poscar

    for line in text.split("\n", 8)[5:7]:  # before as many names are made
        counts = takewhile(str.isdecimal, line.split())
        if len(text) > MAX_TEXT or sum(map(int, counts)) > MAX_SITES:
            raise CrystalError(f"more than {MAX_SITES} sites")
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        structure = Poscar.from_str(text, read_velocities=False).structure
    if any("false names" in str(one.message) for one in told):
        raise CrystalError("a POSCAR that does not name its elements")
    return _checked(structure)


def of_json(value: Any) -> Crystal:
    """The crystal of pymatgen's dictionary of a Structure. Raises CrystalError where it is none."""
    from pymatgen.core import Lattice, Structure

    try:
        lattice, sites = value["lattice"], value["sites"]
        if len(sites) > MAX_SITES:
            raise CrystalError(f"more than {MAX_SITES} sites")
        cell = Lattice(lattice["matrix"])
        species = [{one["element"]: one.get("occu", 1) for one in site["species"]} for site in sites]
        structure = Structure(cell, species, [site["abc"] for site in sites])
    except (KeyError, TypeError, AttributeError, IndexError, np.linalg.LinAlgError) as error:
        raise CrystalError("no structure of pymatgen") from error
    return _checked(structure)


def _require_file(path: Path) -> None:
    if not path.is_file():
        raise UserError("structures-absent", f"There is no file or folder {path}.", "Correct the path.")
    if path.suffix.lower() in ARCHIVES:
        raise UserError("structures-archive", f"{path} is an archive.", "Unpack it, and name the folder.")
    with open(path, "rb") as file:
        head = file.read(100)
    if head.startswith(POINTER.encode()):
        todo = "Fetch the file itself with git lfs pull, or from where it was published."
        raise UserError("structures-git-lfs", f"{path} is a Git LFS pointer, not the file.", todo)
    if _kind(path) is None:
        raise UserError("structures-file-unknown", f"{path} is {NO_FILE}.", NEEDED, "Name another file.")
    if _kind(path) == "table" and "cif" not in (names := _header(path)):
        found = f"{path} has no column `cif` (it has {', '.join(names[:8]) or 'none'})."
        raise UserError("structures-no-cif-column", found, "Name the column with the CIF texts cif.")


def _header(path: Path) -> list[str]:
    with open(path, encoding="utf-8-sig", errors="replace", newline="") as file:
        return next(csv.reader(file, delimiter=TABLES[path.suffix.lower()]), [])


def _kind(path: Path) -> str | None:
    end = path.suffix.lower()
    if end in TABLES:
        return "table"
    return "cif" if end == ".cif" else "json" if end in JSONS else "poscar" if POSCARS.fullmatch(path.name) else None


def _of_path(path: Path) -> Iterator[Found]:
    for file in files_in(path):
        name = str(file.relative_to(path)) if path.is_dir() else file.name
        kind = _kind(file)
        if not file.is_file():
            yield Found(name, None, "a link to a folder" if file.is_dir() else "a link to nothing")
        elif kind is None:
            yield Found(name, None, "an archive" if file.suffix.lower() in ARCHIVES else NO_FILE)
        elif file.stat().st_size < 1024 and file.read_bytes().startswith(POINTER.encode()):
            yield Found(name, None, LFS)
        elif kind == "table":
            yield from _of_table(file, name)
        elif kind == "json":
            yield from _of_records(file, name)
        else:
            text = file.read_bytes().decode("utf-8-sig", errors="replace")
            name = name.removesuffix(file.suffix) if kind == "cif" else name
            yield from _found(name, of_cif(text) if kind == "cif" else [_tried(partial(of_poscar, text))])


def _of_table(path: Path, name: str) -> Iterator[Found]:
    """The rows of a table with a column `cif`; one in a folder that has none is no file of crystals."""
    csv.field_size_limit(max(csv.field_size_limit(), MAX_CELL))  # the process': only ever raised
    with open(path, encoding="utf-8-sig", errors="replace", newline="") as file:
        rows = csv.DictReader(file, delimiter=TABLES[path.suffix.lower()], strict=True)
        try:
            if "cif" not in (rows.fieldnames or ()):
                yield Found(name, None, "a table without a column cif")
                return
            for number, row in enumerate(rows, 1):
                yield from _found(_name(row) or f"{name}:{number}", _of_row(row))
        except csv.Error as error:
            yield Found(f"{name}:{rows.line_num}", None, "a table that is broken from here on", str(error))


def _of_row(row: dict[str | None, Any]) -> list[Crystal | CrystalError]:
    if None in row or None in row.values():
        return [CrystalError("a row that does not fit the header")]
    crystals = list(of_cif(row["cif"]))
    return crystals if len(crystals) == 1 else [CrystalError("several crystals in one cell of a table")]


def _of_records(path: Path, name: str) -> Iterator[Found]:
    """Dictionaries of structures, or records that hold one as `structure`, or a text as `cif`."""
    try:
        for line, value in read_records(path):
            label = (_name(value) if isinstance(value, dict) else "") or f"{name}:{line}"
            inner = value.get("structure", value) if isinstance(value, dict) else value
            if isinstance(value, dict) and isinstance(value.get("cif"), str):
                yield from _found(label, of_cif(value["cif"]))
            else:
                yield from _found(label, [_tried(partial(of_json, inner))])
    except RecordError as error:
        yield Found(name, None, "JSON that is broken from here on", str(error))


def _name(row: dict[str, Any]) -> str:
    return next((str(row[key]) for key in NAMES if isinstance(row.get(key), (str, int)) and row[key] != ""), "")


def _found(name: str, crystals: Iterable[Crystal | CrystalError]) -> Iterator[Found]:
    for one in crystals:
        if isinstance(one, Crystal):
            yield Found(name, one)
        else:
            yield Found(name, None, str(one), " ".join(str(one.__cause__ or "").split())[:200])


def _tried(read: Any) -> Crystal | CrystalError:
    """What `read` returns, or why it fails."""
    try:
        return read()
    except CrystalError as error:
        return error
    except Exception as cause:  # noqa: BLE001 (pymatgen raises nearly every kind)
        error = CrystalError("a file that cannot be read")
        error.__cause__ = cause
        return error


def _of_block(text: str) -> Crystal:
    """The crystal of one block of a CIF, its cell as it stands there. Raises CrystalError where it is none."""
    from pymatgen.io.cif import CifParser

    lines = (line for line in text.split("\n") if line.strip())  # a run of blank ones takes pymatgen its square
    text = "\n".join(lines)
    _require_small(text)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what they tell is looked at below
        parser = CifParser.from_str(text, check_cif=False)
        (block,) = parser.as_dict().values()
        _require_stated(block)
        try:
            structure = parser.parse_structures(primitive=False, on_error="raise")[0]
        except ValueError as error:
            is_disorder = "occupanc" in str(error)
            raise CrystalError("disordered sites" if is_disorder else "a file that cannot be read") from error
        told = " ".join(parser.warnings)
        if "implicit hydrogens" in told:
            raise CrystalError("hydrogens that have no place")
        if "Defaulting to P1" in told and (group := _group_of(block)):
            raise CrystalError("a space group that is not known") from CrystalError(group)
        crystal = _checked(structure)
        formula = block.get("_chemical_formula_sum", "?")
        if formula not in NOT_STATED and (why := parser.check(structure)):
            raise CrystalError("sites that are not the formula of the file") from CrystalError(why)
    return crystal


def _require_stated(block: dict[str, Any]) -> None:
    """Raises CrystalError where a site of a CIF's block does not state its place, its occupancy or its element."""
    if isinstance(block.get(COORDINATES[0]), str):  # pymatgen would take each of its signs for a site
        raise CrystalError("a site outside a loop")
    if any(NOT_STATED & set(block.get(axis, ())) for axis in COORDINATES):
        raise CrystalError("a site without coordinates")
    if NOT_STATED & set(block.get("_atom_site_occupancy", ())):
        raise CrystalError("a site without its occupancy")
    is_type = "_atom_site_type_symbol" in block
    for name in block["_atom_site_type_symbol" if is_type else "_atom_site_label"]:
        letters = re.match(r"[A-Za-z]*", name)[0]
        if letters not in KNOWN | {"D", "T"} and not (is_type and letters.title() in KNOWN):
            raise CrystalError("an unknown element") from CrystalError(name)


def _group_of(block: dict[str, Any]) -> str:
    """What a CIF's block states of its space group, but for P 1."""
    stated = (value for key, value in block.items() if GROUP.match(key))
    values = chain.from_iterable([value] if isinstance(value, str) else value for value in stated)
    return ", ".join(value for value in values if re.sub(r"[\s_]", "", value) not in NO_GROUP)


def _require_small(text: str) -> None:
    """Raises CrystalError where a block holds more than is read, before its positions are compared with each other."""
    rows = operations = 0
    for loop in re.split(r"^[ \t]*loop_", text[:MAX_TEXT], flags=re.MULTILINE | re.IGNORECASE)[1:]:
        lines = [line.strip() for line in loop.splitlines() if line.strip() and not line.lstrip().startswith("#")]
        heads = list(takewhile(lambda line: line.startswith("_"), lines))
        values = takewhile(lambda line: not line.startswith("_"), lines[len(heads) :])
        number = sum(len(WORD.findall(line)) for line in values) // max(len(heads), 1)
        if any(head.startswith(COORDINATES[0]) for head in heads):
            rows = number
        elif any(re.match(r"_(symmetry_equiv_pos|space_group_symop_operation)_(as_)?xyz", head) for head in heads):
            operations = number
    if len(text) > MAX_TEXT or rows > MAX_SITES or rows * max(operations, 1) > MAX_POSITIONS:
        raise CrystalError(f"more than {MAX_SITES} sites")


def _checked(structure: "Structure") -> Crystal:
    crystal = of_structure(structure)
    if closest(crystal) < REACH:
        raise CrystalError(f"atoms less than {REACH} Å apart")
    return crystal
