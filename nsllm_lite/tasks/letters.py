"""The letter that an answer to a multiple-choice question chooses, in English or Chinese; None where it is not sure.

An answer is searched for claims: a box, "the answer is", "I choose", "答案", "选", a line with nothing but a letter.
What is denied, conditional, asked or possible only ("could be") is no claim. Claims that differ are settled by the last
one if it is a box, is called final, or corrects those before it; else nothing is read. Where there is no claim, weaker
signs count, if all name the same letter: "B is correct", a first or last line such as "B. text", a letter in brackets.

A letter is one only where what follows lets it be: "B cells", "vitamin C", "E. coli" and the article "a" are none.
"""

import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import NamedTuple

from nsllm_lite.tasks.items import WRAPPER, Item, without_thinking

REMOVED = re.compile(
    r"\\[()\[\]]|\\left\b|\\right\b|[$*`\"“”„«»「」『』‘]|['’](?!\w)|(?<!\w)['’]|(?<!\w)_{1,3}|_{1,3}(?!\w)|[\u200b-\u200f\ufeff]"
)
SPACE = re.compile(r"\\[,;! ]|\\quad\b|~")
HEDGE = re.compile(r",?[ \t]{0,3}\bI\s{1,3}(?:think|believe|guess|suppose)\b(?:\s+that\b)?,?")
BRACKETS = str.maketrans("[]【】〔〕", "()()()")

CLAIM = re.compile(
    r"""(?P<box>\\f?boxed\s{0,3}\{)
    |(?<![A-Za-z])(?:(?:answer|ans|result|choice|option|solution|selection|pick|guess)
      |(?:right|correct|best|true)\s+(?:one|statement|label|response))\b
      (?!\s{1,3}\(?[A-J]\b)[^.\n:;?。=]{0,60}?(?:\b(?:is|was|be)\b|[:=]|->|=>|→|\s[–—-](?=\s))
    |\b(?:choose|chose|pick|select|choosing|selecting|picking|settle\s+on|opt\s+for|lean(?:ing)?\s+towards?
      |(?:go|going|went|stick)\s+(?:with|for)|vote\s+for)\b
    |\bI(?:['’]d|\s+would)\s+say\b
    |\b(?:it|that|this)(?:['’]s|\s+(?:is|(?:must|has\s+to|should|would|seems\s+to|appears\s+to)\s+be))\b
    |\b(?:which\s+is|corresponds?\s+to|corresponding\s+to|match(?:es)?|agrees?\s+with|we\s+have)\s+(?=option|choice)
    |\b(?:correct|final)\s?:|\b(?:that|which)\s+leaves\b|\b(?:leaving|left\s+with)\b|答\s?:
    |\bnot\s+(?:option\s+)?\(?[A-J]\)?\s?,?\s(?:but|rather|it\s+is|it's)\b
    |(?:答案|正确选项|最佳选项|正确项)(?:[^。\n,;:?不非A-Za-z]{0,8}?(?:是|为|选择|选|:))?
    |(?<!不)正确的?(?:一项|选项|答案|说法)?(?:是|为|:)
    |而是|应该?[是为]|选(?!项)(?:择|定|了)?
    |(?P<so>\b(?:so|thus|hence|therefore)\b,?|∴|=>|→
      |(?:^|\n)\s{0,9}(?:probably|most\s+likely|likely|definitely|clearly|sure|yes|okay|certainly)\b[,:!.]?)""",
    re.IGNORECASE | re.VERBOSE,
)
LEAD = re.compile(
    r"""[\s(){:是为]*(?:(?:therefore|thus|clearly|definitely|then|probably|likely|most\ likely|indeed|actually|simply
    |just|in\ fact|also|still|rather),?\s+){0,3}
    (?:(?:the\s+)?(?:option|choice|letter|answer|statement)\b|选项)?[\s(:]*""",
    re.IGNORECASE | re.VERBOSE,
)
JOINED = re.compile(r"[ \t]*(?:,\s*(?:and\b|or\b)?|[/&、+–—-]|(?:and|or|to|through)\b|和|或|与|及|以及)\s*\(?")
ALONG, BARE = re.compile("[、和与及]"), re.compile(r"([A-J])(?![A-Za-z])")  # "A和B都对"
ALONE_VERB = re.compile(r"\)?(?:\s+(?:is|isn't|was|has|does|doesn't|cannot|can't|fails|would)\b|\s*(?:选?项)?[错不是])")
AFTER = (
    r"(?=\s*(?:$|[.!?)}。、—–&/,;]|:(?![A-Za-z])|\((?![A-Za-z\d]\))|-{1,2}\s|选?项|因为|由于|是|才|而|和|或|与|及|不选)"
    r"|[ \t]*\n"
    r"|\s+(?:because|since|as|for|which|that|is|was|are|and|or|to|through|but|not|nor|rather|instead|over|due|based|"
    r"given|by|would|here|in|from|on|with|only|when|while)\b)"
)
AFTER_SMALL = r"(?=\s*(?:$|[.!?)}。、,;:]|\n|[/&]\s?[a-j]\b)|\s+(?:because|since|and|or)\b)"
SPECIES = r"(?!\.\s?(?:coli|elegans|subtilis|melanogaster|thaliana|albicans|difficile|cerevisiae|rerio)\b)"
DENIED = re.compile(
    r"\b(?:if(?! forced| I (?:had|have|must))|whether|suppose|assuming|unless|why|wrong|incorrect|false|worst|least|"
    r"not|cannot|never|neither|nor|either|could|might|may|perhaps|maybe|doubt|"
    r"rule[sd]? out|ruling out|eliminat\w+|exclud\w+|discard\w*|reject\w*|except|"
    r"unlike)\b|n['’]t\b|如果|假如|假设|[若不非未别勿]|错误|排除|可能|也许",
    re.IGNORECASE,
)
CLAUSE = re.compile(r"[.,;:!?。、\n]|\b(?:but|so|thus|hence|therefore|then)\b", re.IGNORECASE)
WRONG = re.compile(
    r"\b(?:wrong|incorrect|false|not (?:the )?(?:correct|right|true|possible|answer|\(?[A-J]\b)|fails?|"
    r"too (?:small|large|low|high)|impossible)\b|(?:isn|can|doesn)['’]t\b|错|不正确|不对|不符|[以被]排除",
    re.IGNORECASE,
)
CORRECTED = re.compile(
    r"\b(?:wait|actually|no|sorry|correction|on (?:second|further|reflection)|rather|instead|hmm|wrong|mistaken?|"
    r"incorrect|however|but|re-?(?:check|consider|examin|read|think)\w*|revis\w+)\b|不对|等等|更正|其实|错|重新|但",
    re.IGNORECASE,
)
FINAL = re.compile(
    r"\b(?:final(?:ly)?|therefore|thus|hence|so|in conclusion|overall)\b|最终|因此|所以|故|综上", re.IGNORECASE
)
BOTH = re.compile(r"[}\s]{0,9}(?:or|and|[,/&、和或与])[\s{]{0,9}")  # between two boxes
REFUTED = re.compile(
    r"\)?[,.]?\s{0,3}(?:(?:but|which|that|this|it)\s){0,2}\b(?:is|was)(?:n['’]t|\s(?:clearly\s)?(?:wrong|incorrect|false|"
    r"not)\b)|\)?\s{0,3}(?:\?|吗)",
    re.IGNORECASE,
)
WRONG_CLAUSE = re.compile(
    r"[.,;:!?。\n()–—]|\s-\s|\b(?:because|since|as|while|whereas|but|so)\b|因为|由于|而|但", re.IGNORECASE
)
OTHERS = re.compile(  # that are wrong: the subject of a clause
    r"\s*(?i:(?:the|all|both|options?|choices?|statements?|answers?|选项)\s*){0,4}"
    r"(?:(?i:others?|rest|remaining)\b|其[他它余]|([A-J](?:\s?(?:[/&、和与]|and|or)\s?[A-J]){0,4})(?![A-Za-z'’-]))"
)
UNLISTED = re.compile(r"(?:\b(?:not|than|unlike)\s?|不是|而非|(?<![A-Za-z])(?-i:[A-J])[、,]\s?)\(?$", re.IGNORECASE)
PRONOUN = re.compile(r"\s*(?:it|they|these|this|that|both)\b", re.IGNORECASE)
BACK = (  # "that is wrong", of the answer before
    r"(?:(?:that|this|it)(?:['’]s|\s(?:is|was|seems|looks|must\sbe))\s(?:\w{1,12}\s){0,2}?"
    r"(?:wrong|incorrect|mistaken|an?\s(?:mistake|error)|not\s(?:right|correct))"
    r"|(?:that|this|it)\s(?:is|was|ca)n['’]t\s(?:be\s)?(?:right|correct)"
    r"|I\s(?:was\s(?:wrong|mistaken)|made\san?\s(?:mistake|error)|take\s(?:that|it)\sback)|my\smistake|scratch\sthat"
    r"|[这那]?(?:个?答案)?(?:是错的|错了|不对|不正确|有误))(?=\s*(?:$|[.!,;。])|\s(?:because|since|as)\b)"
)
LEADS = (
    r"(?:(?:(?:no|wait|hmm+|actually|oh|oops|sorry|hold\son)\b|等一?[等下]|不(?=[,。]))"
    r"[\s,.!…。–—-]{0,3}){1,4}"
)
TAKEN_BACK = re.compile(rf"[)}}.!…。;\n]\s{{0,9}}{LEADS}(?:{BACK}|$)", re.IGNORECASE)
TAKEN_BACK_AT_ONCE = re.compile(rf"[^.!?。\n]{{0,80}}[.!。,;\n]\s{{0,9}}{BACK}", re.IGNORECASE)
SENTENCE_ENDS = re.compile(r"[)}\s]{0,9}(?:[.!。]\s*)?(?:\n|$)")
LINE_LEAD = re.compile(r"(?:the\s+)?(?:option|choice|letter|answer|选项|选择|选)[\s:(]{0,3}", re.IGNORECASE)
REASON = re.compile(r"\)?\s+(?:because|since|as|and|or|[&(–—-])")
EDGES = " \t\r.,:;!(){}<>#=-—–•。、|\u3000"
CONTEXT_CHARS = 60


class Claim(NamedTuple):
    place: int  # where its words begin, and
    end: int  # where its last letter ends
    letters: frozenset[str]
    is_box: bool = False


class Forms(NamedTuple):
    """Patterns of the letters that a question has."""

    one: re.Pattern
    correct: re.Pattern
    better: re.Pattern
    marker: re.Pattern
    bracket: re.Pattern


@lru_cache(maxsize=64)
def _forms(letters: str) -> Forms:
    one = f"[{letters}]"
    either = f"[{letters}{letters.lower()}]"
    joined = r"\)?\s{0,3}(?:,\s?(?:and|or)?|[/&、]|and|or|和|或|与|及)\s{0,3}"
    correct = (
        rf"(?<![A-Za-z\d'’-])(?P<others>(?:\(?{one}{joined}){{0,3}})\(?(?P<last>{either})\)?"
        r"(?:\s{1,3}(?:is|are|must be|would be)\s{1,3}(?:(?:the|clearly|also|most|definitely|indeed|both|all|only|"
        r"likely)\s{1,3}){0,3}(?:correct|right|best|true|answer)\b"
        r"|\s?(?:选?项)?(?:说法|的说法)?[都均也才就]?[是为]?(?:正确|对))"
    )
    named = rf"(?:options?\s|选项)?\(?(?-i:({one}))\)?"
    pair = rf"{named}\s?(?:and|or|&|/|,|vs\.?|versus|[和与跟、])\s?{named}"
    better = (
        rf"\b(?:between|comparing|of)\s{pair},?\s{{0,3}}(?:(?:I\sthink|overall|clearly|however|the)\b,?\s){{0,3}}{named}\s"
        r"(?:is|seems|looks|appears|fits|matches|sounds|makes|would\sbe)\s"
        r"(?:(?:to|be|the|clearly|much|slightly|far|a|it|question|description|data|text|facts)\s){0,3}"
        r"(?:better|best|more\s(?:likely|plausible|accurate|precise|appropriate|suitable|correct|specific|complete"
        r"|consistent|reasonable|sense))(?:\s(?:choice|one|fit|answer|option|match))?"
        r"(?=\s*(?:[.!,;\n]|$)|\s(?:than|because|since|as)\b)"
        rf"|{pair}\s?(?:之间|相比|比较|两者|两项|中)[^。\n;A-J]{{0,6}}{named}\s?(?:选?项)?(?:显然|明显|相对|应该)?"
        r"更(?:好|合适|准确|恰当|合理|佳|可能|符合\w{0,6}|接近\w{0,6})(?=[\s。.!,;]|$)"
    )
    return Forms(
        re.compile(rf"(?:({one}){SPECIES}{AFTER}|([{letters.lower()}]){SPECIES}{AFTER_SMALL})"),
        re.compile(correct),
        re.compile(better, re.IGNORECASE),
        re.compile(rf"(?<!\w)\(?({either})(?:\)\s?[.:、]?|[.:、])(?!\w\.)"),
        re.compile(rf"(?<!\w)\(({one})\)|(?<![\w(])({one})\)"),
    )


def parse_letter(text: str, letters: Sequence[str]) -> str | None:
    """The one of `letters` (capitals from A to J) that `text` chooses; None where it chooses none, or several."""
    text, forms = _plain(without_thinking(text)), _forms("".join(letters))
    claims = sorted([*_claims(text, forms), *_bare_lines(text, letters)])
    if not claims:
        back = TAKEN_BACK.search(text)
        if back and not any(place > back.start() for place, _ in _called(text, forms)):
            return None
        return _only(_weak(text, forms) or _bracketed(text, forms))
    last = claims[-1]
    others = [claim for claim in claims if claim.letters != last.letters]
    if others and BOTH.fullmatch(text, others[-1].end, last.place):
        return None
    is_final = last.is_box or FINAL.search(text, max(0, last.place - 20), last.end)
    if others and not is_final and not CORRECTED.search(text, others[-1].end, last.end):
        return None
    if TAKEN_BACK_AT_ONCE.match(text, last.end) or TAKEN_BACK.search(text, last.end):
        return None
    turn = CORRECTED.search(text, last.end)
    if turn and any(place > turn.start() and not called <= last.letters for place, called in _called(text, forms)):
        return None  # "The answer is A. But B is right."
    return _only(last.letters)


def gold_letter(item: Item) -> str | None:
    """The choice that an item's output names; None where the item has no choices, or its output names none of them, or
    one letter with the text of another choice."""
    letter = parse_letter(item.answer, list(item.choices)) if item.choices else None
    stated = re.fullmatch(r"\W{0,3}\w\W{1,3}(.*?)\W?", item.answer, re.DOTALL)
    texts = {_same(option): other for other, option in reversed(item.choices.items())}
    told = texts.get(_same(stated[1]), letter) if stated else letter
    return letter if letter and (told == letter or _same(item.choices[letter]) == _same(item.choices[told])) else None


def lettered(items: Sequence[Item]) -> tuple[Item, ...]:
    """Those of the items that are multiple choice, with the letter alone as output."""
    return tuple(
        item if item.answer == letter else replace(item, output=letter)
        for item in items
        if (letter := gold_letter(item))
    )


def _same(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split()).rstrip(".。")


def _only(letters: frozenset[str]) -> str | None:
    (letter, *others) = letters or (None,)
    return None if others else letter


def _plain(text: str) -> str:
    """Without emphasis, quotation marks, dollars and LaTeX's text commands; full-width letters as ASCII."""
    text = unicodedata.normalize("NFKC", text)
    for _ in range(2):  # one in another
        text = WRAPPER.sub(r"\1", text)
    text = re.sub(r"<(/?)(?:final_)?answer>", lambda tag: "\n" if tag[1] else "\nanswer: ", text, flags=re.IGNORECASE)
    return HEDGE.sub(" ", SPACE.sub(" ", REMOVED.sub("", text)).translate(BRACKETS))


def _letters_at(text: str, place: int, forms: Forms) -> tuple[frozenset[str], int] | None:
    """The letters named from `place` on ("B", "A and C"), and where the last ends; None where none is."""
    found = forms.one.match(text, LEAD.match(text, place).end())
    if not found:
        return None
    letters, end = {found[found.lastindex].upper()}, found.end()
    while joined := JOINED.match(text, end + (text[end : end + 1] == ")")):
        more, is_either = forms.one.match(text, joined.end()), "or" in joined[0] or "或" in joined[0]
        if not more and is_either:
            letters.add("?")  # "A or, at high pressure, B"
        if is_along := ALONG.search(joined[0]):
            more = more or BARE.match(text, joined.end())
        if not more or (not (is_either or is_along) and ALONE_VERB.match(text, more.end())):
            break
        letters, end = letters | {more[more.lastindex].upper()}, more.end()
    return frozenset(letters), end


def _claims(text: str, forms: Forms) -> Iterator[Claim]:
    for found in CLAIM.finditer(text):
        if not (named := _letters_at(text, found.end(), forms)):
            continue
        letters, end = named
        if REFUTED.match(text, end) or DENIED.search(_clause_before(text, found.start()) + _verb(found[0])):
            continue
        if not found["so"] or SENTENCE_ENDS.match(text, end):
            yield Claim(found.start(), end, letters, bool(found["box"]))


def _verb(words: str) -> str:
    """The words of a claim, if they can deny it: "the answer cannot be"; those of "not A but" do not."""
    return "" if words.lower().startswith("not") else words


def _clause_before(text: str, place: int) -> str:
    return CLAUSE.split(text[max(0, place - CONTEXT_CHARS) : place])[-1]


def _bare_lines(text: str, letters: Sequence[str]) -> Iterator[Claim]:
    """Lines with a letter and nothing else."""
    place = 0
    for line in text.split("\n"):
        bare = line.strip(EDGES)
        if len(bare) < CONTEXT_CHARS and (bare := LINE_LEAD.sub("", bare, count=1)).upper() in set(letters):
            yield Claim(place, place + len(line), frozenset(bare.upper()))
        place += len(line) + 1


def _called(text: str, forms: Forms) -> Iterator[tuple[int, set[str]]]:
    """Where letters are called correct, and which."""
    for found in forms.correct.finditer(text):
        if not DENIED.search(_clause_before(text, found.start())):
            yield found.start(), {*re.findall(r"[A-J]", found["others"]), found["last"].upper()}
    for found in forms.better.finditer(text):
        *pair, letter = filter(None, found.groups())
        if letter in pair and not DENIED.search(_clause_before(text, found.start())):
            yield found.start(), {letter}


def _weak(text: str, forms: Forms) -> frozenset[str]:
    """Letters that are called correct, and those that begin lines: none where these are neither first nor last."""
    called = set().union(*(letters for _, letters in _called(text, forms)))
    lines = [_begins(line, forms) for line in text.split("\n") if line.strip()]
    lines = [named for named in lines if named is not None]
    begun = lines if lines and (lines[0] or lines[-1]) else []
    return frozenset(called.union(*begun))


def _begins(line: str, forms: Forms) -> frozenset[str] | None:
    """The letters that a line begins with, or lists: "B. text", "B because", "A. text B. text"; None where it is said
    of them that they are wrong."""
    line = line.lstrip(EDGES.replace("(", ""))
    if not (named := _letters_at(line, 0, forms)) or line.startswith(("I,", "I'")) or forms.better.match(line):
        return frozenset()
    letters, end = named
    if REFUTED.match(line, end) or _is_wrong(line, end, letters):
        return None
    if re.match(r"\s|\)\s" if LINE_LEAD.match(line) else r"\s", line[end:]) and not REASON.match(line, end):
        return frozenset()  # a sentence about that choice, or a word after it: "A photon"
    markers = forms.marker.finditer(line, end)
    listed = {
        found[1].upper() for found in markers if not UNLISTED.search(line[max(0, found.start() - 8) : found.start()])
    }
    return letters | (listed & {chr(ord(max(letters)) + 1)})


def _is_wrong(line: str, end: int, letters: frozenset[str]) -> bool:
    """Whether it is said of `letters`, which end at `end`, that they are wrong; "C because A is wrong" says it of
    others."""
    of_others = False
    for found in WRONG.finditer(line, end, end + 200):
        subject = WRONG_CLAUSE.split(line[end : found.start()])[-1]
        if negated := re.search(r"(?i:not (?:the )?)\(?([A-J])$", found[0]):
            of_others = negated[1] not in letters
        elif others := OTHERS.match(subject):
            of_others = not letters & set(others[1] or "")
        else:
            of_others = of_others and bool(PRONOUN.match(subject))
        if not of_others:
            return True
    return False


def _bracketed(text: str, forms: Forms) -> frozenset[str]:
    return frozenset(
        found[found.lastindex]
        for found in forms.bracket.finditer(text)
        if not DENIED.search(_clause_before(text, found.start()))
        and not WRONG.search(CLAUSE.split(text[found.end() : found.end() + CONTEXT_CHARS])[0])
    )
