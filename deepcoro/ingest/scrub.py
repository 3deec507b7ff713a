"""Takes identifiers out of report text by their pattern and leaves everything that a finding could be made of.

What has no pattern (a bare surname in running text) cannot be found so: `ingest/review.py` lists rare words for a human.
Kinds of identifiers: HIPAA Safe Harbor (45 CFR 164.514(b)(2)), DICOM PS3.15 E.3.5 (Clean Descriptors); years alone are kept.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

from deepcoro.ingest.known_words import FINDING_WORDS, KNOWN_WORDS, normal_form


class Scrubbed(NamedTuple):
    """A text without identifiers."""

    text: str
    replaced: dict[str, int]
    """Kind of placeholder -> how many."""


def scrub(text: str) -> Scrubbed:
    """The text with `[NAME]`, `[DATE]`, `[TIME]`, `[ID]`, `[PHONE]` ... in place of identifiers. Scrubbing again changes nothing.

    A text without identifiers comes back as it is; in another, accents are composed, and spaces, dashes and digits are the plain ones.
    """
    replaced: Counter[str] = Counter()
    plain = unicodedata.normalize("NFC", text).translate(_PLAIN)
    for needed, rules in _RULES:
        if needed is None or needed.search(plain):
            for kind, pattern, replace in rules:
                plain = _apply(plain, kind, pattern, replace, replaced)
    return Scrubbed(plain, dict(replaced)) if replaced else Scrubbed(text, {})


_PLAIN = {
    **dict.fromkeys((0xA0, 0x2002, 0x2003, 0x2007, 0x2009, 0x202F, 0x3000), " "),
    **dict.fromkeys((*range(0x2010, 0x2016), 0x2212, 0xFE58, 0xFE63, 0xFF0D), "-"),
    **dict.fromkeys((0xAD, 0x200B, 0x200C, 0x200D, 0x2060, 0xFEFF), None),
    **{0xFF10 + digit: str(digit) for digit in range(10)},
}
"""Word processors write spaces, dashes and digits that look like the plain ones; a pattern should not have to know them."""


Replace = Callable[[re.Match[str]], str | None]
"""The text that takes the place of a match; None leaves it."""
Rule = tuple[str, re.Pattern[str], Replace]


def _apply(text: str, kind: str, pattern: re.Pattern[str], replace: Replace, replaced: Counter[str]) -> str:
    """Until nothing is left to find: a name may stand between two that one match cannot hold."""

    def counted(match: re.Match[str]) -> str:
        new = replace(match)
        if new is None:
            return match[0]
        replaced[kind] += 1
        return new

    for _ in range(_MOST_PASSES):
        before, text = text, pattern.sub(counted, text)
        if text == before:
            break
    return text


_MOST_PASSES = 8

# --- numbers ------------------------------------------------------------------------------------------------------------------
_UNIT = (
    r"(?!\s?(?:%|/mm|/[µu]l|tr/min|(?:mm(?:hg|ol)?|cm|atm|bars?|ml|[mcµu]?gy(?:\W?cm)?|[mµukn]?g|u|ui|iu|units?|unit[ée]s?|"
    r"fps|rpm|ms|s|sec|min|bpm|hz|px)(?![a-zà-ÿ])))"
)
_NUMBER_BEFORE, _NUMBER_AFTER = r"(?<![\w.,/-])", r"(?![\w/-]|[.,]\d)"
# Letters may be glued to what is long enough to be nothing else: `DDN1955-03-12inf`.
_GLUED_BEFORE, _GLUED_AFTER = r"(?<!\d)(?<!\d[.,/-])", r"(?!\d|[/-]\d|[.,]\d)"
_MONTHS = (
    "january|february|march|april|may|june|july|august|september|october|november|december|"
    "janvier|f[ée]vrier|mars|avril|mai|juin|juillet|ao[ûu]t|septembre|octobre|novembre|d[ée]cembre"
)
_SHORT_MONTHS = "jan|janv|feb|f[ée]v|fevr|f[ée]vr|mar|apr|avr|jun|jul|juil|aug|sep|sept|oct|nov|dec|d[ée]c"
_ANY_MONTH = rf"(?:{_MONTHS}|(?:{_SHORT_MONTHS})\.?)"
_YEAR = r"(?:19|20)\d\d"
_DAY = r"(?:0?[1-9]|[12]\d|3[01])"
_ORDINAL = r"(?:er|st|nd|rd|th|e)?"
_SEP = r"[ ./_-]{0,3}"
_CLOCK = r"(?:(?:T?(?:[01]\d|2[0-3])[:hH]?| (?:[01]?\d|2[0-3])[:hH])[0-5]\d(?:[:.]?[0-5]\d(?:\.\d+)?)?Z?)"
_BIRTH = r"(?:ddn|dob|date de naissance|n[ée]e?\s+le|born(?: on)?|birth\s?date|date of birth)"
_PRESSURES = re.compile(
    r"\b(?:PA|AP|PAP|AO|LV|VG|RV|VD|RA|OD|LA|OG|BP|TA|PCWP|LVEDP|pressions?|pressures?|medina|timi|atm)\W{0,3}$",
    re.IGNORECASE,
)


def _date_of_numbers(match: re.Match[str]) -> str | None:
    """Three numbers are a date when a day, a month and a year can be among them and no pressure is named before them."""
    first, second, year = int(match["first"]), int(match["second"]), match["year"]
    possible = (first <= 12 and second <= 31) or (first <= 31 and second <= 12)
    if not possible or 0 in (first, second):
        return None
    if len(year) == 2 and _PRESSURES.search(match.string[max(0, match.start() - 24) : match.start()]):
        return None
    return "[DATE]"


_MISREAD = str.maketrans("OoIl", "0011")


def _misread_date(match: re.Match[str]) -> str | None:
    """A date of a scanned report, in which letters were read for digits (`2O21-O3-l2`)."""
    numbers = [match[part].translate(_MISREAD) for part in ("first", "second", "third")]
    is_misread = not match[0].replace(match["sep"], "").isdigit() and sum(map(str.isdigit, match[0])) >= 3
    years = [number for number in numbers if re.fullmatch(_YEAR, number)]
    others = [int(number) for number in numbers if number not in years]
    possible = len(others) == 2 and all(1 <= number <= 31 for number in others) and min(others) <= 12
    return "[DATE]" if is_misread and len(years) == 1 and possible else None


def _put(placeholder: str) -> Replace:
    return lambda match: placeholder


def _behind_label(placeholder: str) -> Replace:
    return lambda match: match["label"] + placeholder


_ID_LABEL = (
    r"(?:MRN|NAM|RAMQ|NIP|IPP|NISS|NHS|SSN|SIN|NAS|OHIP|HCN|PHN|UCI|dossiers?|chart|accession|acc|requisition|requ[êe]te|"
    r"identifiant|encounter|visite?|[ée]pisode|folio|patient\s?id|study\s?id|exam(?:en)?\s?(?:id|no|n°)|serial|s/n|id|"
    r"m[ée]dical\s+record(?:\s+number)?|hospital\s+(?:no|number)|num[ée]ro(?:\s+de\s+dossier)?|permis|licen[cs]e|license\s+no)"
)
_ADDRESSES: list[Rule] = [
    ("EMAIL", re.compile(r"(?<![\w.+-])[\w.+-]{1,64}@[\w-]+(?:\.[\w-]+)+"), _put("[EMAIL]")),
    ("URL", re.compile(r"\b(?:https?|ftp|s3|gs|file)://\S+|\bwww\.\S+", re.IGNORECASE), _put("[URL]")),
    (
        "PATH",
        re.compile(
            r"(?:\b[A-Za-z]:\\|\\\\)[^\s,;\"']+|(?<![\w/.])/(?:[\w.~^-]+/)+[\w.^-]*"
            r"|(?<![^\s,;\"'\[\]])[^\s,;\"'\[\]]+\.(?:dcm|dicom|ima|avi|mp4|mkv|mov|wmv|mpe?g|np[yz]|png|jpe?g|tiff?|bmp|pdf|docx?|xlsx?|csv|txt|rtf|hl7|xml|zip)\b",
            re.IGNORECASE,
        ),
        _put("[PATH]"),
    ),
]  # fmt: skip
_DATES: list[Rule] = [
    ("UID", re.compile(r"(?<![\d.])\d+(?:\.\d+){3,}"), _put("[UID]")),
    (
        "DATE",
        re.compile(rf"(?<!\d){_YEAR}(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])(?:[T_-]?\d{{4,6}}(?:\.\d+)?)?(?!\d)"),
        _put("[DATE]"),
    ),
    (
        "DATE",
        re.compile(rf"{_GLUED_BEFORE}{_YEAR}(?: ?(?P<sep>[-/._]) ?| )(?:0?[1-9]|1[0-2])(?(sep) ?(?P=sep) ?| ){_DAY}(?:{_CLOCK})?(?!\d|[.,]\d)(?(sep)|{_UNIT})", re.IGNORECASE),
        _put("[DATE]"),
    ),
    (
        "DATE",
        re.compile(rf"{_GLUED_BEFORE}(?P<first>\d{{1,2}})(?: ?(?P<sep>[-/._]) ?| )(?P<second>\d{{1,2}})(?(sep) ?(?P=sep) ?| )(?P<year>{_YEAR}){_GLUED_AFTER}"),
        _date_of_numbers,
    ),
    (
        "DATE",
        re.compile(rf"{_NUMBER_BEFORE}(?P<first>\d{{1,2}})(?P<sep>[-/.])(?P<second>\d{{1,2}})(?P=sep)(?P<year>\d\d){_NUMBER_AFTER}{_UNIT}", re.IGNORECASE),
        _date_of_numbers,
    ),
    (
        "DATE",
        re.compile(rf"{_GLUED_BEFORE}(?P<first>[0-3]\d)(?P<sep>[-/.])(?P<second>[0-3]\d)(?P=sep)(?P<year>\d\d){_GLUED_AFTER}{_UNIT}", re.IGNORECASE),
        _date_of_numbers,
    ),
    ("DATE", re.compile(rf"(?P<label>\b{_BIRTH} ?[:=]? ?)\d{{1,4}}[-/. ]?\d{{1,2}}[-/. ]?\d{{1,4}}", re.IGNORECASE), _behind_label("[DATE]")),
    ("DATE", re.compile(r"(?<![\w.,/-])(?P<first>[\dOoIl]{1,4})(?P<sep>[-/.])(?P<second>[\dOoIl]{1,2})(?P=sep)(?P<third>[\dOoIl]{1,4})(?![\w/-])"), _misread_date),
]  # fmt: skip
_MONTHLY: list[Rule] = [
    (
        "DATE",
        re.compile(rf"{_GLUED_BEFORE}{_DAY}{_ORDINAL}{_SEP}(?:(?:of|de) )?{_ANY_MONTH},?{_SEP}'?{_YEAR}(?!\d|[.,]\d)(?! ?%)", re.IGNORECASE),
        _put("[DATE]"),
    ),
    (
        "DATE",
        re.compile(rf"(?<![\w.,]){_DAY}{_ORDINAL}[ ./-]?(?:of )?{_ANY_MONTH},?[ ./-]?'?\d\d(?![\w%]|[.,]\d)(?! ?%)", re.IGNORECASE),
        _put("[DATE]"),
    ),
    ("DATE", re.compile(rf"(?:{_MONTHS}|(?:\b|(?-i:(?<=[a-z_])(?=[A-Z]))){_ANY_MONTH}){_SEP}{_DAY}{_ORDINAL} ?,?{_SEP}{_YEAR}(?!\d)", re.IGNORECASE), _put("[DATE]")),
    ("DATE", re.compile(rf"(?<!\d){_YEAR}{_SEP}{_ANY_MONTH}{_SEP}{_DAY}(?![\d%]| ?%)", re.IGNORECASE), _put("[DATE]")),
    # `OCT 3.0` is a tomography and `may 3` is grammar: without a year only a full month counts, and May with its capital.
    (
        "DATE",
        re.compile(rf"(?<![\d.,A-Z]){_DAY}{_ORDINAL} ?(?:of )?(?!may\b|MAY\b)(?i:{_MONTHS})\b|\b(?!may\b|MAY\b|mai\b|mars\b)(?i:{_MONTHS}) {_DAY}{_ORDINAL}(?![\w]|[.,/-]\d| ?%)"),
        _put("[DATE]"),
    ),
    (
        "DATE",
        re.compile(rf"\b(?:(?i:{_MONTHS})|(?:Jan|Janv|Feb|Fév|Mar|Apr|Avr|Jun|Jul|Juil|Aug|Sep|Sept|Oct|Nov|Dec|Déc|sept|janv|févr|juil|nov|déc)\.?) ?{_YEAR}(?!\d)"),
        _put("[DATE]"),
    ),
]  # fmt: skip
_NUMBERS: list[Rule] = [
    ("DATE", re.compile(rf"{_NUMBER_BEFORE}(?:0?[1-9]|1[0-2])[/-]{_YEAR}{_NUMBER_AFTER}|{_NUMBER_BEFORE}{_YEAR}-(?:0[1-9]|1[0-2]){_NUMBER_AFTER}|{_GLUED_BEFORE}(?:0[1-9]|1[0-2])/{_YEAR}{_GLUED_AFTER}"), _put("[DATE]")),
    (
        "DATE",
        re.compile(rf"(?P<label>\b(?:le|du|au|date[ds]?|dob|ddn|n[ée]e?\s+le|born|on)\s*:?\s*)(?:0[1-9]|[12]\d|3[01])/(?:0[1-9]|1[0-2]|[12]\d|3[01])(?![\w/]){_UNIT}", re.IGNORECASE),
        _behind_label("[DATE]"),
    ),
    (
        "TIME",
        re.compile(
            r"(?<![\d.,:/])(?:[01]\d|2[0-3]):[0-5]\d(?::[0-5]\d(?:\.\d+)?)?(?:\s?[ap]\.?m\b\.?)?(?![\d:])(?!\s?(?:min|s\b))"
            r"|(?<![\w.,:/])(?:0?\d|1\d|2[0-3])(?::[0-5]\d){1,2}\s?[ap]\.?m\b\.?"
            r"|(?<![\w.,:/])(?:1[0-2]|0?[1-9])\s?[ap]\.?m\b(?!\w)"
            r"|(?<![\d.,:/])(?:[01]?\d|2[0-3])\s?h\s?[0-5]\d(?!\d)"
            r"|(?<=à )\d:[0-5]\d(?!\d)|(?<=at )\d:[0-5]\d(?!\d)",
            re.IGNORECASE,
        ),
        _put("[TIME]"),
    ),
    (
        "HEALTH_CARD",
        re.compile(
            r"\b[A-Z]{4}[ -]?\d{4}[ -]?\d{4}(?!\d)|[A-Za-z]{4}[ -]?\d\d(?:[05][1-9]|[16][0-2])[ -]?(?:0[1-9]|[12]\d|3[01])[ -]?\d\d(?!\d)"
            r"|(?<!\d)[12][ .]?\d\d[ .]?(?:0[1-9]|1[0-2])[ .]?\d\d[ .]?\d{3}[ .]?\d{3}[ .]\d\d(?!\d)"
            r"|(?<![\d.,-])(?:\d{4}-\d{3}-\d{3}(?:-?[A-Z]{2})?|\d{3}-\d{2}-\d{4}|\d{3}-\d{3}-\d{3})(?!\d|-\d)"
        ),
        _put("[HEALTH_CARD]"),
    ),
    (
        "PHONE",
        re.compile(
            r"(?<![\d.,/])(?:\+?1[ .-]?)?(?:\(\d{3}\) ?\d{3}[ .-]?|\d{3}[ .-]\d{3}[ .-])\d{4}(?:,?\s*(?:ext|poste|x|#)\.?\s*\d{1,6})?(?!\d|-\d)"
            r"|(?<![\d.,/])0\d(?:[ .-]?\d\d){4}(?!\d)|\+\d{1,3}(?:[ .-]?\(?\d{1,4}\)?){2,5}(?![\w%])",
            re.IGNORECASE,
        ),
        _put("[PHONE]"),
    ),
    (
        "PHONE",
        re.compile(
            r"(?P<label>\b(?:t[ée]l(?:[ée]phone|ephone)?|phone|cell(?:ulaire)?|fax|t[ée]l[ée]copieur|pager|paget|t[ée]l[ée]avertisseur|poste|ext(?:ension)?)\b\s*[.:#]{0,2}\s*)\d[\d .-]{2,14}\d(?!\w)",
            re.IGNORECASE,
        ),
        _behind_label("[PHONE]"),
    ),
    (
        "ID",
        re.compile(
            rf"(?P<label>\b{_ID_LABEL}\s*(?:(?:no|n°|nr|num[ée]ro|number)\b\.?)?\s*[:#=.]{{0,2}}\s*)(?=[\w./-]*\d[\w./-]*\d[\w./-]*\d)[A-Za-z]{{0,8}}[-/ ]?\d(?:[\w/-]|\.(?=\d))*(?: \d{{2,4}}(?![\w/%-]|[.,]\d| ans\b){_UNIT})*",
            re.IGNORECASE,
        ),
        _behind_label("[ID]"),
    ),
    ("ID", re.compile(r"(?P<label># ?)\d{4,}(?![\w.,]\d)"), _behind_label("[ID]")),
    ("ID", re.compile(rf"(?<![\w.,-])[A-Z]{{1,12}}[-_]?\d{{5,}}[A-Z]{{0,3}}(?!\d)(?i:{_UNIT})"), _put("[ID]")),
    ("ID", re.compile(r"(?<![\w.,-])(?=[\dOoIl]*[OoIl])(?=(?:[OoIl]*\d){5})[\dOoIl]{7,}(?!\w)"), _put("[ID]")),
    ("ID", re.compile(rf"(?<!\d)(?<!\d[.,])\d{{6,}}(?!\d|[.,]\d){_UNIT}", re.IGNORECASE), _put("[ID]")),
    (
        "ADDRESS",
        re.compile(
            r"\b\d{1,5}(?:-\d+)?,? (?:(?i:rue|avenue|av\.|boul\.|boulevard|chemin|ch\.|rang|place|route|impasse|all[ée]e)) (?:(?i:de la|de|du|des|d'|le|la|l'|saint|st) ?)*[A-ZÀ-Þ][\w'’.-]*(?: [A-ZÀ-Þ][\w'’-]*)*"
            r"|\b\d{1,5} (?:[A-ZÀ-Þ][\w'’-]* ){1,3}(?:Street|St|Avenue|Ave|Road|Rd|Boulevard|Blvd|Drive|Lane|Crescent|Court)\b\.?"
        ),
        _put("[ADDRESS]"),
    ),
    ("POSTAL_CODE", re.compile(r"\b(?i:[ABCEGHJ-NPRSTVXY]\d[ABCEGHJ-NPRSTV-Z][ -]?\d[ABCEGHJ-NPRSTV-Z]\d)(?!\d)|\b[A-Z]{2},? \d{5}(?:-\d{4})?\b"), _put("[POSTAL_CODE]")),
    (
        "AGE",
        re.compile(r"(?<![\d.,/-])(?:9\d|1[0-3]\d)(?=[FMH]\b|\s?-?\s?(?:years?|yrs?|y/?o|y\.o\.|ans)\b(?!\s+ago))", re.IGNORECASE),
        _put("[AGE]"),
    ),
    ("AGE", re.compile(r"(?P<label>\b(?:age|aged|[âa]ge|[âa]g[ée]e?)\s*(?:de\b|of\b|:|=)?\s*)(?:9\d|1[0-3]\d)(?![\w%]|[.,]\d| ?%)", re.IGNORECASE), _behind_label("[AGE]")),
]  # fmt: skip

# --- names --------------------------------------------------------------------------------------------------------------------
_LETTERS = [chr(code) for code in (*range(0xC0, 0x250), *range(0x370, 0x530), *range(0x1E00, 0x1F00))]
_UPPER = "A-Z" + "".join(filter(str.isupper, _LETTERS))
_LOWER = "a-z" + "".join(filter(str.islower, _LETTERS))
_WORD = rf"(?:[{_UPPER}]\.(?:-?[{_UPPER}]\.)*(?:[{_UPPER}][\w'’-]+)?|[{_UPPER}][\w'’]*(?:[-^][{_UPPER}{_LOWER}][\w'’]*)*)"
_PARTICLE = r"(?:d['’]|(?:Ste?\.?|de la|de|du|des|la|le|van der|van den|van|von|der|den|di|da|dos|el|al|bin|ben|st\.?|ste\.?) )"
_NAME = rf"(?:{_PARTICLE})?{_WORD}(?:(?: |\^|, ){_PARTICLE}?{_WORD}){{0,4}}"
_SHORTEST_NAME = _NAME + "?"  # lazy: a degree is no part of the name before it
_LIST = rf"{_NAME}(?:\s?(?:/|;|,|&|\bet\b|\band\b)\s?{_NAME}){{0,5}}"
_PIECE = re.compile(rf"{_PARTICLE}?{_WORD}|[^\W\d_][\w'’-]*")


def _name_length(names: str, first_is_name: bool) -> int:
    """Characters up to the first word that names nobody. Behind a title even `Long` is a name, but `LAD` never."""
    end = 0
    for number, piece in enumerate(_PIECE.finditer(names)):
        stop = FINDING_WORDS if number == 0 and first_is_name else KNOWN_WORDS
        if piece[0] in ("et", "and"):
            continue
        if _holds(piece[0], stop):
            break
        end = piece.end()
    return end


_PARTICLE_START = re.compile(rf"^{_PARTICLE}")


def _holds(piece: str, words: frozenset[str]) -> bool:
    """Whether all of a piece of a name is among the words; particles and initials are part of any name."""
    parts = re.findall(r"[^\W_]+", re.sub(r"['’]s\b", "", _PARTICLE_START.sub("", piece)))
    told = [normal_form(part) in words for part in parts if len(part) > 1 or part.islower()]
    return bool(told) and all(told)


def _name_behind(first_is_name: bool) -> Replace:
    def replace(match: re.Match[str]) -> str | None:
        length = _name_length(match["names"], first_is_name)
        if length == 0 or not re.search(r"[^\W\d_]{2}|[A-Z]\.", match["names"][:length]):
            return None
        return f"{match['label']}[NAME]{match['names'][length:]}"

    return replace


def _name_before(match: re.Match[str]) -> str | None:
    """The unknown words that stand directly before a degree."""
    pieces = list(_PIECE.finditer(match["names"]))
    start = None
    for piece in reversed(pieces):
        if _holds(piece[0], KNOWN_WORDS):
            break
        start = piece.start()
    return None if start is None else f"{match['names'][:start]}[NAME]{match['label']}"


def _name_joined(match: re.Match[str]) -> str | None:
    """What a date or number was joined to by `_` (`ROY_JEAN_19550312`), unless its words are known ones."""
    is_known = all(len(part) < 3 or _holds(part, KNOWN_WORDS) for part in re.split("[_^]", match["names"]))
    return None if is_known else f"[NAME]{match['label']}"


_TITLE = r"(?:Drs?|DRS?|Dre|DRE|Doctors?|Docteure?s?|Prof|PROF|Professor|Professeure?|Pr|Mr|Mrs|MRS|Ms|Miss|Mister|Mme|MME|Mlle|MLLE|Madame|Monsieur|Me|Sir|Sra?)"
_SIGNED = (
    r"(?:(?:electronically |[ée]lectroniquement )?(?:signed|sign[ée]e?|dictated|dict[ée]e?|reported|performed|effectu[ée]e?|"
    r"r[ée]alis[ée]e?|read|lu|lue|reviewed|revue?|verified|v[ée]rifi[ée]e?|approved|approuv[ée]e?|interpreted|interpr[ée]t[ée]e?|"
    r"transcribed|transcrit|referred|r[ée]f[ée]r[ée]e?|seen|vue?|done|op[ée]r[ée]e?|supervised|supervis[ée]e?|validated|valid[ée]e?)(?: [ée]lectroniquement| electronically)? (?:by|par))"
)
_ROLE = (
    r"(?:patiente?(?:['’]s)?(?: name)?|name|full name|last name|first name|surname|nom(?: du patient)?|pr[ée]noms?|nom,? (?:et )?pr[ée]noms?|"
    r"operators?|op[ée]rateurs?|op[ée]ratrice|(?:performing |referring |attending )?physicians?|(?:interventional )?cardiologists?|interventionalist|"
    r"cardiologues?|h[ée]modynamicien(?:ne)?|m[ée]decins?(?: traitant| r[ée]f[ée]rent)?|referring|attending|consultant|fellow|resident|"
    r"r[ée]sidente?|assistante?s?|nurses?|infirmi(?:er|[èe]re)s?|inf\.?|technologists?|technicians?|technologues?|radiographer|sonographer|[ée]chographiste|"
    r"surgeon|chirurgien(?:ne)?|anesth[ée]siste|anesthetist|mother|father|spouse|m[èe]re|p[èe]re|conjointe?|[ée]pou(?:x|se)|contact|cc|signature|author|auteur)"
)
_STAFF = (
    r"(?:operators?|op[ée]rateurs?|op[ée]ratrice|(?:performing |referring |attending )?physicians?|cardiologists?|cardiologues?|"
    r"m[ée]decins?(?: traitant| r[ée]f[ée]rent)?|referring|fellow|r[ée]sidente?|resident|dictated|signature|last name|first name|surname)"
)
_NEAR = r"(?:[Pp]atiente?|[Ww]ife|[Hh]usband|[Dd]aughter|[Ss]on|[Ss]ister|[Bb]rother|[Mm]other|[Ff]ather|[ÉEée]pouse|[ÉEée]poux|[Cc]onjointe?|[Ff]ille|[Ff]ils|[Mm]ère|[Pp]ère|[Cc]oll[èe]gue|[Cc]olleague|docteure?|doctor|professeure?|professor|madame|monsieur|dr|dre|mme|mlle|mrs)"
_LOWER_NAME = rf"(?P<names>[{_LOWER}][\w'’-]*(?: [{_LOWER}][\w'’-]*){{0,2}})"
_NAMES: list[Rule] = [
    ("NAME", re.compile(rf"(?P<label>(?<![\w\[]){_TITLE}\.?[ \t]*[:]?[ \t]+)(?P<names>{_LIST})"), _name_behind(True)),
    ("NAME", re.compile(rf"(?P<label>(?<![\w\[]){_TITLE}\.?[ \t]*\r?\n[ \t]*)(?P<names>{_NAME})"), _name_behind(False)),
    ("NAME", re.compile(rf"(?P<label>(?<![\w\[])(?:(?:Dr|Dre|Drs|Mr|Mrs|Ms|Mme|MME|Mlle|Prof|Pr)\.?|DRE?\.))(?P<names>(?=(?:(?<=\.){_PARTICLE})?[{_UPPER}][\w'’-]{{2}}){_NAME})"), _name_behind(True)),
    ("NAME", re.compile(rf"(?P<label>(?<![\w.\[])M\.(?: |(?=[{_UPPER}][{_LOWER}]{{2}})))(?P<names>{_NAME})"), _name_behind(True)),
    # MR is also a regurgitation: in capitals it is a title only where a sentence begins.
    ("NAME", re.compile(rf"(?P<label>(?:^|[.:;\n]\s*)M[RS]\.? )(?P<names>{_NAME})"), _name_behind(False)),
    ("NAME", re.compile(rf"(?P<label>\b(?:dr|dre|docteure?|mme|mlle|mrs|madame|monsieur)(?:\.? |\.)){_LOWER_NAME}"), _name_behind(False)),
    ("NAME", re.compile(rf"(?P<label>(?<![\w\[])(?i:{_ROLE})(?: ?\d)?(?:\s*[:=|;\t]\s*| +- +|(?=[{_UPPER}][{_LOWER}]{{2}})))(?P<names>{_LIST})"), _name_behind(False)),
    ("NAME", re.compile(rf"(?P<label>(?<![\w\[])(?i:{_STAFF})(?: ?\d)?\s*[:=]\s*){_LOWER_NAME}"), _name_behind(False)),
    ("NAME", re.compile(rf"(?P<label>(?<![\w\[])(?i:name|nom|nom du patient|pr[ée]nom)\s*[:=]\s*){_LOWER_NAME}"), _name_behind(False)),
    ("NAME", re.compile(rf"(?P<label>(?<![\w\[])(?i:{_SIGNED})\s*:?\s*)(?P<names>{_LIST})"), _name_behind(False)),
    ("NAME", re.compile(rf"(?P<label>(?<![\w\[])(?i:{_SIGNED})\s*:\s*){_LOWER_NAME}"), _name_behind(False)),
    ("NAME", re.compile(rf"(?P<label>\b{_NEAR}[.,]? )(?P<names>{_NAME})"), _name_behind(False)),
    ("NAME", re.compile(rf"(?<![\w\[])(?P<names>{_SHORTEST_NAME})(?P<label>(?:,? |[,.]|(?<=[{_LOWER}]))(?:M\.?D\.?|FRCPC|FRCSC|FRCP|Ph\.?D|RN|FACC|FSCAI|FESC|MBBS|MRCP|RDCS)\b)"), _name_before),
    ("NAME", re.compile(rf"(?<![\w\[])[{_UPPER}][\w'’-]+\^[{_UPPER}][\w'’^-]*"), _put("[NAME]")),
    ("NAME", re.compile(rf"(?P<label>\bPATIENTE? )(?P<names>{_WORD}, {_WORD})"), _name_behind(False)),
    ("NAME", re.compile(r"(?<![\w\[])(?P<names>[^\W\d_]{2,}(?:[_^][^\W\d_]+)*)(?P<label>[_^]\[[A-Z])"), _name_joined),
    ("PLACE", re.compile(rf"(?P<label>\b(?:H[ôo]pital|HOPITAL|H[ÔO]PITAL|Clinique|CHU|CHUM|CISSS|CIUSSS|[Cc]entre hospitalier|CENTRE HOSPITALIER|Institut de [Cc]ardiologie)[ -](?:(?:de la|de|du|des|d['’]) ?)?)(?P<names>{_NAME})"), lambda match: _place(match)),
    ("PLACE", re.compile(rf"(?<![\w\[])(?P<names>{_NAME})(?P<label> (?:Hospital|Clinic|Medical Cent(?:er|re)|Heart Institute|Heart Cent(?:er|re))\b)"), lambda match: _place_before(match)),
]  # fmt: skip


def _place(match: re.Match[str]) -> str | None:
    named = _name_behind(False)(match)
    return named and named.replace("[NAME]", "[PLACE]", 1)


def _place_before(match: re.Match[str]) -> str | None:
    named = _name_before(match)
    return named and named.replace("[NAME]", "[PLACE]", 1)


_RULES: list[tuple[re.Pattern[str] | None, list[Rule]]] = [
    (None, _ADDRESSES),
    (re.compile(r"\d"), _DATES),
    (re.compile(rf"{_ANY_MONTH}[ ,./_'-]{{0,4}}\d|\d{_ORDINAL}{_SEP}(?:(?:of|de) )?{_ANY_MONTH}", re.IGNORECASE), _MONTHLY),
    (re.compile(r"\d"), _NUMBERS),
    (None, _NAMES),
]  # fmt: skip
"""In order, each list with what a text must hold for it to be worth a look."""
