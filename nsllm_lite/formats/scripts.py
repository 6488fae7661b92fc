"""The scripts of China, Japan and Korea, as character classes."""

import re

HAN_CLASS = r"々\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U000323af"
KANA_CLASS = r"\u3041-\u3096\u309d-\u309f\u30a1-\u30fa\u30fc-\u30ff\u31f0-\u31ff"
HANGUL_CLASS = r"\uac00-\ud7a3"
HAN, KANA, HANGUL = (re.compile(f"[{script}]") for script in (HAN_CLASS, KANA_CLASS, HANGUL_CLASS))
HIRAGANA = re.compile(r"[\u3041-\u3096]")
UNSPACED = re.compile(f"[{HAN_CLASS}{KANA_CLASS}]")  # scripts that set no spaces between words
EASTERN = re.compile(f"[{HAN_CLASS}{KANA_CLASS}{HANGUL_CLASS}]")
