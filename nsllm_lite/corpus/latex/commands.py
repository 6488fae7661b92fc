r"""What is known of LaTeX's commands and environments, those of the common packages and publishers among them.

A command in none of these tables is left out with its star and option, and its arguments are read as text: \emph{x} is
x, and so is \anything{x}.
"""

import re


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


LEVELS = {"part": 0, "chapter": 1, "section": 2, "subsection": 3, "subsubsection": 4, "paragraph": 5, "subparagraph": 6}
TITLES = _words("title Title TITLE icmltitle")
HIDDEN_HEADING = re.compile(r"\W*(?:acknowledge?m?ents?|references|bibliography|literature cited)\W*$", re.IGNORECASE)
PARAGRAPH_BREAKS = _words("par newpage clearpage cleardoublepage pagebreak bigskip medskip smallskip endgraf")

FORMULAS = _words(
    "align alignat dgroup displaymath dmath eqnarray equation flalign gather IEEEeqnarray math multline xalignat"
)
ABSTRACTS = _words("Abstract abstract abstracts onecolabstract")
LISTS = _words("""
    asparaenum asparaitem compactdesc compactenum compactitem description easylist enumerate enumerate1
    inlinelist inparaenum itemize labeling list tablenotes trivlist
""")
DESCRIPTIONS = _words("description compactdesc labeling")
BLOCKS = _words("""
    boxedminipage center displayquote doublespace flushleft flushright frame framed mdframed minipage multicols
    quotation quote shaded spacing tcolorbox titlepage verse
""")
THEOREMS = {
    name: name.capitalize()
    for name in _words("""
        theorem lemma proof definition corollary proposition remark example conjecture claim assumption hypothesis
    """)
}
LEFT_OUT = _words("""
    ack acknowledgement acknowledgements acknowledgment acknowledgments acks addendum affiliations algorithm
    algorithm2e algorithmic algpseudocode alltt AMS asy Author authorlist axis bibdiv biography CCSXML
    circuitikz classification code comment deluxetable feynmandiagram figure floattable forest icmlauthorlist
    IEEEbiography IEEEbiographynophoto IEEEkeywords interactive keyword keywords listing longdeluxetable
    longtable longtabu marginfigure margintable mpxtabular MSCcodes NiceTabular overpic PACS pgfpicture
    picture pspicture refcontext references rotatetable ruledtabular SCfigure scheme SCtable
    sidewaysfigure sidewaystable splitdeluxetable subfigure subtable supertabular tabbing table tabu tabular
    tabularx tabulary tblr teaserfigure theacknowledgments thebibliography thenomenclature threeparttable tikzcd
    tikzpicture wrapfigure wraptable xtabular
""")
ENVIRONMENT_ARGUMENTS = {  # of those that are read through; the others may have one option
    "minipage": "ooom", "multicols": "mo", "spacing": "m", "adjustwidth": "smm", "adjustbox": "m", "list": "mm",
    "frontmatter": "", "tcolorbox": "o", "landscape": "", "changemargin": "mm", "boxedminipage": "om",
    "otherlanguage": "m", "hyphenrules": "m", "textblock": "mo", "mdframed": "o", "labeling": "om", "column": "m",
    "restatable": "omm", "thanks": "", "CJK": "smm", "CJK*": "mm",
}  # fmt: skip

TEXTUAL_CITES = _words("""
    citeA citealp citealt Citeauthor citeauthor citefullauthor citeNP citet Citet citetalias citetext citeyear
    citeyearpar newcite shortcite Textcite textcite
""")
CITES = _words("""
    autocite Autocite autocites bibentry cite citen citenum citeonline Citep citep cites footcite footfullcite
    fullcite nobibentry onlinecite Parencite parencite parencites rcite shortciteA shortciteN smartcite
    supercite upcite
""")
REFERENCES = _words("""
    autoref cref Cref Crefrange crefrange eqref figref Fref fref labelcref nameref prettyref ref secref subref
    tabref thmref vpageref Vref vref zcref
""")
ACRONYMS = _words("gls Gls glspl Glspl ac Ac acs acf acl acp acsp acrshort acrfull")

# s: star, o: option, m: argument, g: a length. What follows them is text again: \textcolor{red}{this}.
SKIPPED = {
    "twocolumn": "",
    "author": "om", "affiliation": "om", "affil": "om", "address": "om", "email": "om", "thanks": "m", "date": "m",
    "keywords": "om", "keyword": "m", "pacs": "m", "preprint": "m", "institute": "m", "inst": "m", "homepage": "om",
    "altaffiliation": "om", "collaboration": "om", "altaffiltext": "mm", "altaffilmark": "m", "footnotemark": "o",
    "titlerunning": "m", "authorrunning": "m", "runningtitle": "m", "runningauthor": "m", "shorttitle": "m",
    "shortauthors": "m", "correspondingauthor": "m", "corres": "m", "ead": "om", "cortext": "om", "corref": "m",
    "fntext": "om", "fnref": "m", "tnoteref": "m", "tnotetext": "om", "journal": "m", "subjclass": "om", "msc": "om",
    "curraddr": "m", "dedicatory": "m", "urladdr": "m", "orcid": "m", "ORCID": "m", "orcidlink": "m", "orcidID": "m",
    "authornote": "m", "authornotemark": "o", "additionalaffiliation": "m", "ccsdesc": "om", "setcopyright": "m",
    "copyrightyear": "m", "acmConference": "ommm", "acmYear": "m", "acmISBN": "m", "acmPrice": "m", "acmJournal": "m",
    "acmVolume": "m", "acmNumber": "m", "acmArticle": "m", "acmMonth": "m", "acmSubmissionID": "m", "received": "om",
    "revised": "m", "accepted": "m", "submitted": "m", "publonline": "m", "slugcomment": "m", "subjectheadings": "m",
    "icmltitlerunning": "m", "icmlsetsymbol": "mm", "icmlauthor": "mm", "icmlaffiliation": "mm", "icmlkeywords": "m",
    "icmlcorrespondingauthor": "mm", "printAffiliationsAndNotice": "m", "IEEEauthorblockN": "m", "pubyear": "m",
    "IEEEauthorblockA": "m", "IEEEauthorrefmark": "m", "IEEEmembership": "m", "IEEEcompsocitemizethanks": "m",
    "markboth": "mm", "markright": "m", "authorinfo": "m", "authors": "m", "presentaddress": "m", "firstpage": "m",
    "AuthorNames": "m", "AuthorCitation": "m", "conference": "m", "offprints": "m", "facility": "m", "facilities": "m",
    "software": "m", "speaker": "m", "eads": "m", "fax": "m", "tel": "m", "rcvdate": "m", "equalcont": "m", "fnm": "o",
    "sur": "m", "orgdiv": "m", "orgname": "m", "jyear": "m", "runauthor": "m", "altaffil": "m", "affiliations": "m",
    "dedication": "m", "pubvolume": "m", "issuenum": "m", "articlenumber": "m", "history": "m", "datereceived": "m",
    "corr": "m", "PACS": "m", "acknowledgment": "m", "ams": "m", "Author": "m", "corresauth": "m", "contrib": "om",
    "AUTHOR": "m", "AFF": "m", "EMAIL": "m", "KEYWORDS": "m", "footnote": "om", "footnotetext": "om",
    "marginpar": "om", "marginnote": "om", "sidenote": "om", "endnote": "m", "todo": "om", "missingfigure": "om",
    "label": "om", "index": "m", "glossary": "m", "caption": "som", "tablefootnote": "m", "captionof": "smom",
    "subcaption": "m", "tnote": "m", "phantom": "m", "hphantom": "m", "vphantom": "m", "nocite": "m",
    "bibliography": "m", "bibliographystyle": "m", "printbibliography": "o", "addbibresource": "m", "hypertarget": "m",
    "pdfbookmark": "omm", "addcontentsline": "mmm", "addtocontents": "mm", "includegraphics": "som", "epsfig": "m",
    "psfig": "m", "epsfbox": "m", "plotone": "m", "plottwo": "mm", "graphicspath": "m", "includepdf": "om",
    "rule": "omm", "verbatiminput": "m", "lstinputlisting": "om", "inputminted": "omm", "figcaption": "m",
    "tikz": "om", "vspace": "sm", "hspace": "sm", "vskip": "g", "hskip": "g", "kern": "g", "mskip": "g", "raise": "g",
    "lower": "g", "parindent": "g", "parskip": "g", "baselineskip": "g", "textwidth": "g", "textheight": "g",
    "hsize": "g", "vsize": "g", "topmargin": "g", "oddsidemargin": "g", "evensidemargin": "g", "columnsep": "g",
    "tabcolsep": "g", "leftskip": "g", "rightskip": "g", "hangindent": "g", "hangafter": "g", "penalty": "g",
    "abovedisplayskip": "g", "belowdisplayskip": "g", "floatsep": "g", "textfloatsep": "g", "intextsep": "g",
    "tolerance": "g", "looseness": "g", "hyphenpenalty": "g", "clubpenalty": "g", "widowpenalty": "g",
    "emergencystretch": "g", "itemsep": "g", "topsep": "g", "setlength": "mm", "addtolength": "mm", "settowidth": "mm",
    "setcounter": "mm", "addtocounter": "mm", "newlength": "m", "newcounter": "mo", "stepcounter": "m",
    "refstepcounter": "m", "counterwithin": "smm", "numberwithin": "mm", "pagestyle": "m", "thispagestyle": "m",
    "pagenumbering": "m", "fontsize": "mm", "fontfamily": "m", "fontseries": "m", "fontshape": "m", "linespread": "m",
    "color": "om", "textcolor": "om", "colorbox": "m", "fcolorbox": "mm", "hbadness": "g", "definecolor": "mmm",
    "pagecolor": "m", "parbox": "ooom", "makebox": "oo", "framebox": "oo", "raisebox": "moo", "scalebox": "mo",
    "resizebox": "smm", "rotatebox": "om", "savebox": "m", "usebox": "m", "newsavebox": "m", "href": "m",
    "hyperlink": "m", "hyperref": "o", "hypersetup": "m", "foreignlanguage": "m", "selectlanguage": "m",
    "language": "g", "lettrine": "o", "multicolumn": "mm", "multirow": "omom", "sisetup": "m", "captionsetup": "om",
    "lstset": "m", "tikzset": "m", "usetikzlibrary": "m", "usepackage": "om", "RequirePackage": "om", "bibitem": "om",
    "enlargethispage": "sm", "allowdisplaybreaks": "o", "pdfoutput": "g", "newtheoremstyle": "mmmmmmmmm",
    "theoremstyle": "m", "newcommand": "smoom", "renewcommand": "smoom", "providecommand": "smoom",
    "newenvironment": "smoomm", "renewenvironment": "smoomm", "crefname": "mmm", "Crefname": "mmm", "doi": "m",
    "vadjust": "m", "DeclareSIUnit": "omm", "ifthenelse": "m", "char": "g", "symbol": "m", "value": "m", "arabic": "m",
    "roman": "m", "alph": "m", "Alph": "m", "Roman": "m", "MakePerPage": "m", "includeonly": "m", "special": "m",
    "write": "gm", "typeout": "m", "setstretch": "m", "tag": "m", "cline": "m", "linenumbers": "o", "pdfinfo": "m",
    "pdfstringdefDisableCommands": "m", "titleformat": "sm", "unitlength": "g",
}  # fmt: skip

# The source's own definitions of these are passed over: what they mean is known, and theirs is about looks.
KEEP = _words("""
    abstract address affiliation appendix author begin bibitem bibliography caption ce center date document
    email emph end footnote frontmatter href hspace includegraphics item label letter maketitle pageref par
    quotation quote si SI subtitle tableofcontents textbf textit textrm textsc textsf texttt thanks url vspace
""")
KEEP |= frozenset(LEVELS) | TITLES | FORMULAS | LISTS | LEFT_OUT | CITES | TEXTUAL_CITES | REFERENCES
