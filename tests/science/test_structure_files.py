"""Files of crystals: all forms give the same crystal, and what is none comes out with its reason."""

import json
import sys
import time

import pytest

from nsllm_lite.science.crystal import MAX_SITES, as_structure, encode
from nsllm_lite.science.crystal_symmetry import symmetry_of
from nsllm_lite.science.structure_files import read_structures
from tests.raising import raises
from tests.science.test_crystal import TITANATE

CIF = """data_salt
_cell_length_a 5.64
_cell_length_b 5.64
_cell_length_c 5.64
_cell_angle_alpha 90
_cell_angle_beta 90
_cell_angle_gamma 90
_symmetry_Int_Tables_number 225
_chemical_formula_sum 'Na1 Cl1'
loop_
_atom_site_label
_atom_site_type_symbol
_atom_site_fract_x
_atom_site_fract_y
_atom_site_fract_z
_atom_site_occupancy
Na1 Na1+ 0 0 0 1
Cl1 Cl1- 0.5 0.5 0.5 1
"""
POSCAR = "salt\n1.0\n2 0 0\n0 2 0\n0 0 2\nNa Cl\n1 1\nDirect\n0 0 0\n0.5 0.5 0.5\n"
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 12\n"
P1 = CIF.replace("225", "1")


def plain_cif(sites: str) -> str:
    return P1[: P1.index("Na1 Na1+")].replace("_chemical_formula_sum 'Na1 Cl1'\n", "") + sites


def write(folder, **files: str):
    for name, text in files.items():
        path = folder / name.replace("__", "/").replace("_dot_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def read(*paths) -> list[tuple[str, str]]:
    return [(found.name, found.reason) for found in read_structures(paths)]


def test_symmetry_is_applied_charges_go_and_the_cell_stays(tmp_path):
    (tmp_path / "salt.cif").write_text(CIF)
    (found,) = read_structures([tmp_path / "salt.cif"])
    assert found.name == "salt"
    assert found.crystal.counts == {"Na": 4, "Cl": 4}
    assert found.crystal.lengths == (5.64, 5.64, 5.64)
    assert symmetry_of(found.crystal) == (225, "Fm-3m", "225 A:a4 B:b4")


def test_all_forms_give_the_same_crystal(tmp_path):
    structure = as_structure(TITANATE)
    (tmp_path / "one.cif").write_text(structure.to(fmt="cif"))
    (tmp_path / "POSCAR_two").write_text(structure.to(fmt="poscar"))
    (tmp_path / "three.json").write_text(json.dumps(structure.as_dict()))
    lines = [{"material_id": "mp-4", "structure": structure.as_dict()}, {"id": 5, "cif": structure.to(fmt="cif")}]
    (tmp_path / "more.jsonl").write_text("\n".join(map(json.dumps, lines)))
    cell = structure.to(fmt="cif").replace('"', '""')
    (tmp_path / "table.csv").write_text(f'\ufeff,material_id,cif\n0,mp-6,"{cell}"\n1,,"{cell}"\n')
    found = {one.name: one.crystal for one in read_structures([tmp_path])}
    assert found.keys() == {"one", "POSCAR_two", "three.json:1", "mp-4", "5", "mp-6", "table.csv:2"}
    for name, crystal in found.items():
        assert encode(crystal) == encode(TITANATE), name


def test_what_is_no_crystal_is_told_and_the_rest_goes_on(tmp_path):
    write(
        tmp_path,
        a_dot_cif=f"\ufeff{P1}",
        b_dot_cif="no such thing",
        c_dot_cif="data_x\n_cell_length_a 3\n",
        d_dot_cif=P1.replace("0.5 1", "0.5 0.7"),
        e_dot_cif=POINTER,
        f_dot_cif=P1.replace("_cell_angle_gamma 90", "_cell_angle_gamma 180"),
        g_dot_cif=P1.replace("Cl1 Cl1-", "D1 D"),
        h_dot_cif=plain_cif("Na Na 0 0 0 1\nCl Cl 0.05 0 0 1\n"),
        i_dot_cif=P1.replace("'Na1 Cl1'", "'Na1 Cl2'"),
        j_dot_cif=P1.replace("5.64", "?", 1),
        k_dot_zip="PK",
        l_dot_md="# Salt",
        m_dot_vasp=POSCAR.replace("Na Cl\n", ""),
        n_dot_vasp=POSCAR,
        o_dot_vasp=POSCAR.replace("Na", "Qq"),
        p_dot_json='{"lattice": {}}\n{"sites": 3}\n[',
        q_dot_csv="id,text\n1,x\n",
        p2_dot_csv="",
        r_dot_csv=f'id,cif\n1,"{P1}"\n2\n3,"{P1}"\n4,"{P1}\n{P1}"\n5,"{P1}',
        s_dot_cif=P1 + " " + P1,
        sub__a_dot_cif=P1,
        _dot_hidden="x",
    )
    assert dict(read(tmp_path)) == {
        "a": "", "b": "no CIF", "c": "a CIF without sites", "d": "disordered sites",
        "e.cif": "a Git LFS pointer in place of the file", "f": "a file that cannot be read",
        "g": "an isotope in place of an element", "h": "atoms less than 0.5 Å apart",
        "i": "sites that are not the formula of the file", "j": "a file that cannot be read", "k.zip": "an archive",
        "l.md": "no file of crystals", "m.vasp": "a POSCAR that does not name its elements", "n.vasp": "",
        "o.vasp": "an unknown element", "p.json:1": "no structure of pymatgen",
        "p.json:2": "no structure of pymatgen", "p.json": "JSON that is broken from here on",
        "p2.csv": "a table without a column cif", "q.csv": "a table without a column cif",
        "1": "", "2": "a row that does not fit the header", "3": "",
        "4": "several crystals in one cell of a table", "r.csv:78": "a table that is broken from here on",
        "s": "", "s#2": "", "sub/a": "",
    }  # fmt: skip


SITES = "Na Na 0.5 0.5 0.5 1\n"
NAMED = "_symmetry_Int_Tables_number 225"
MISREAD = {
    "a coordinate that is 0": (plain_cif(SITES + "Cl Cl . . . 1\n"), "a site without coordinates"),
    "no coordinate": (plain_cif(SITES + "Cl Cl 0 0 ? 1\n"), "a site without coordinates"),
    "an atom left out": (plain_cif(SITES + "Cl Cl 0 0 0 .\n"), "a site without its occupancy"),
    "hydroxide left out": (plain_cif(SITES + "O1 OH 0 0 0 1\n"), "an unknown element"),
    "water that is O": (plain_cif(SITES + "O1 Wat 0 0 0 1\n"), "an unknown element"),
    "hydrogens left out": (plain_cif(SITES + "O1 O-H 0 0 0 1\n"), "hydrogens that have no place"),
    "a label that is no element": (
        plain_cif("Na1 0.5 0.5 0.5 1\nUiso1 0 0 0 1\n").replace("_atom_site_type_symbol\n", ""), "an unknown element",
    ),
    "sites that are letters": (
        plain_cif("").split("loop_")[0] + "".join(
            f"_atom_site_{name} {value}\n" for name, value in
            (("label", "C"), ("type_symbol", "C"), ("fract_x", "5"), ("fract_y", "0"), ("fract_z", "0"))
        ), "a site outside a loop",
    ),
    "a group by name": (CIF.replace(NAMED, "_symmetry_space_group_name_H-M 'Q 9'"), "a space group that is not known"),
    "a group by number": (CIF.replace("225", "300"), "a space group that is not known"),
}  # fmt: skip


@pytest.mark.parametrize("what", MISREAD)
def test_what_pymatgen_reads_as_something_else_is_refused(tmp_path, what):
    text, reason = MISREAD[what]
    (tmp_path / "a.cif").write_text(text)
    assert read(tmp_path / "a.cif") == [("a", reason)]


@pytest.mark.parametrize(
    "text",
    [
        CIF.replace(NAMED + "\n", ""),  # no symmetry at all is P 1
        P1.replace(NAMED.replace("225", "1"), "_symmetry_space_group_name_H-M 'P 1'"),
        P1.replace("'Na1 Cl1'", "?"),
        P1.replace("Na1 Na1+ 0 0 0 1", "Na1 Na1+ 0.0(2)\n0 0 1.00(3)"),  # two lines of one site
        P1.replace("Cl1 Cl1-", "Cl1 CL"),
        P1.replace("Na1 Na1+", "Na1").replace("Cl1 Cl1-", "Cl_a").replace("_atom_site_type_symbol\n", ""),
        P1 + "_refine_details\n;\n" + "x, y, z\n" * 600 + ";\n",
        P1.replace("loop_", "\n" * 50_000 + "loop_") + " \n" * 50_000,  # pymatgen alone takes 10 s
    ],
    ids=range(8),
)
def test_what_a_cif_may_leave_out_or_add(tmp_path, text):
    (tmp_path / "a.cif").write_text(text)
    started = time.process_time()
    (found,) = read_structures([tmp_path / "a.cif"])
    assert (found.reason, found.crystal.counts) == ("", {"Na": 1, "Cl": 1})
    assert time.process_time() - started < 3


def test_many_sites_on_few_lines_are_counted(tmp_path):
    rows = " ".join(f"C{n} C 0.{n % 10} 0.{n // 100 % 10} 0.{n // 10 % 10} 1" for n in range(10_000))
    (tmp_path / "a.cif").write_text(plain_cif(rows))
    (tmp_path / "b.vasp").write_text(POSCAR.replace("1 1", "1 99999999999"))
    started = time.process_time()
    assert set(dict(read(tmp_path)).values()) == {f"more than {MAX_SITES} sites"}
    assert time.process_time() - started < 2


def test_links_of_a_folder_are_read_or_told(tmp_path):
    write(tmp_path, a_dot_cif=P1, sub__b_dot_cif=P1)
    (tmp_path / "c.cif").symlink_to("a.cif")
    (tmp_path / "d.cif").symlink_to("absent.cif")
    (tmp_path / "e").symlink_to("sub")
    assert dict(read(tmp_path)) == {
        "a": "", "sub/b": "", "c": "", "d.cif": "a link to nothing", "e": "a link to a folder",
    }  # fmt: skip


def test_ten_thousand_sites_are_refused_before_they_are_compared(tmp_path):
    many = "".join(f"C{n} C 0.{n:05} 0 0 1\n" for n in range(10_000))
    orbits = "".join(f"C{n} C 0.{n:05} 0.1 0.2 1\n" for n in range(400))
    lattice = {"matrix": [[9, 0, 0], [0, 9, 0], [0, 0, 9]]}
    sites = [{"species": [{"element": "C", "occu": 1}], "abc": [n / 10_000, 0, 0]} for n in range(10_000)]
    operations = "loop_\n_space_group_symop_operation_xyz\n" + "'x, y, z'\n" * 192
    write(
        tmp_path,
        a_dot_cif=plain_cif(many),
        b_dot_cif=plain_cif(orbits) + operations,
        c_dot_vasp=POSCAR.replace("1 1", "5000 5000").replace("0 0 0\n", "0 0 0\n" * 9_999),
        d_dot_json=json.dumps({"lattice": lattice, "sites": sites}),
        e_dot_csv=f'id,cif\ne,"{plain_cif(many)}"\nf,"{P1}"\n',
    )
    started = time.process_time()
    found = dict(read(tmp_path))
    assert found.pop("f") == ""
    assert found == dict.fromkeys(("a", "b", "c.vasp", "d.json:1", "e"), f"more than {MAX_SITES} sites")
    assert time.process_time() - started < 5


def test_json_imports_nothing_that_it_names(tmp_path):
    evil = {"@module": "os", "@class": "system", "command": "false"}
    site = {"species": [{"element": "Na", "occu": 1}], "abc": [0, 0, 0], "properties": {"x": evil}}
    lattice = {"matrix": [[4, 0, 0], [0, 4, 0], [0, 0, 4]]}
    (tmp_path / "a.json").write_text(json.dumps({"lattice": lattice, "sites": [site], **evil}))
    (found,) = read_structures([tmp_path / "a.json"])
    assert found.crystal.elements == ("Na",)


@pytest.mark.parametrize(
    ("name", "text", "code"),
    [
        ("a.cif", None, "structures-absent"),
        ("a.cif", POINTER, "structures-git-lfs"),
        ("a.csv", POINTER, "structures-git-lfs"),
        ("a.tar.gz", "x", "structures-archive"),
        ("a.md", "x", "structures-file-unknown"),
        ("a.csv", "id,text\n1,x\n", "structures-no-cif-column"),
    ],
)
def test_a_file_that_is_named_and_unfit_is_an_error(tmp_path, name, text, code):
    if text is not None:
        (tmp_path / name).write_text(text)
    with raises(code, tmp_path / name):
        list(read_structures([tmp_path / name]))


def test_without_pymatgen_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pymatgen.io.cif", None)
    with raises("extra-not-installed", "nsllm-lite[materials]"):
        list(read_structures([tmp_path]))


def test_names_that_repeat_are_numbered(tmp_path):
    (tmp_path / "a.csv").write_text(f'id,cif\na,"{P1}"\na#2,"{P1}"\na,"{P1}"\na,"{P1}"\n')
    assert [name for name, _ in read(tmp_path)] == ["a", "a#2", "a#3", "a#4"]
