"""Addresses of the network, file names and names of programs in words: "www.example.com", "bob@example.com", "main.py", "C#"."""

import re

from solfa.tokenizers.text.acronyms import SPELLED_ALWAYS
from solfa.tokenizers.text.number_words import digits
from solfa.tokenizers.text.written_forms import FILE_ENDINGS

NAMES = {
    ".": "dot",
    "/": "slash",
    "-": "dash",
    "_": "underscore",
    "@": "at",
    ":": "colon",
    "~": "tilde",
    "%": "percent",
}
DOMAINS = "com|org|net|edu|gov|io|dev|ai|co\\.uk"


def addresses(text: str) -> str:
    """Every address, hashtag, user name and program name as it is read aloud."""
    text = re.sub(
        r"(?<![\w.+-])[\w.+-]{1,64}@[\w-]+(?:\.[\w-]+)+",
        lambda m: " " + _spoken(m[0].rstrip(".")) + ("." if m[0].endswith(".") else ""),
        text,
    )
    text = re.sub(r"\b(?:https?|ftp)://\S+|\bwww\.\S+", _url, text, flags=re.I)
    domain = rf"(?<![\w.-])[a-z0-9-]{{1,63}}(?:\.[a-z0-9-]{{1,63}}){{0,8}}\.(?:{DOMAINS})\b(?:/[\w./-]*\w)?"
    text = re.sub(domain, _url, text, flags=re.I)
    text = re.sub(r"(?<!\w)\.NET\b|(?<=ASP)\.NET\b", " dot net", text)
    text = re.sub(rf"\b([A-Za-z][\w-]{{0,63}})\.({'|'.join(FILE_ENDINGS)})\b(?!\.\w)", _file, text)
    text = re.sub(r"\b([A-GJ])#(?!\w)", r"\1 sharp", text)
    text = re.sub(r"\b([A-Z])\+\+", r"\1 plus plus", text)
    text = re.sub(r"(?<!\w)#(?=[A-Za-z])", "hashtag ", text)
    text = re.sub(r"\s?@\s?(?=\d)", " at ", text)
    return re.sub(r"(?<![\w])@(?=[A-Za-z_])", "at ", text)


def _file(m: re.Match[str]) -> str:
    return f"{m[1].lower() if m[1].isupper() else m[1]} dot {FILE_ENDINGS[m[2]]}"


def _spoken(part: str) -> str:
    part = re.sub(r"(?<=[A-Za-z])(?=\d)|(?<=\d)(?=[A-Za-z])", " ", part)
    part = re.sub(r"\d+", lambda m: digits(m[0]), part)
    part = re.sub(r"(?<=\.)(?!co\b)[a-z]{2}(?=$|[./])", lambda m: " ".join(m[0].upper()), part)
    part = re.sub(r"\b[a-z]{2,4}\b", lambda m: " ".join(m[0].upper()) if m[0].upper() in SPELLED_ALWAYS else m[0], part)
    part = re.sub(r"\bwww\b", "W W W", re.sub(r"[./\-_@:~%]", lambda m: f" {NAMES[m[0]]} ", part))
    return re.sub(r"[^A-Za-z']+", " ", part)


def _url(m: re.Match[str]) -> str:
    address = m[0].rstrip(".,;:!?)'\"")
    end = m[0][len(address) :]
    address = re.sub(r"^[a-z]+://", "", address, flags=re.I)
    return " " + _spoken(re.split(r"[?#]", address)[0].rstrip("/")) + end
