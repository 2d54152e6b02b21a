"""The texts that tokenizers are compared on: written here, seeded, the same on every machine.

U+0000 is left out: the engine's binding takes C strings. So are lone surrogates, which are no text.
"""

from __future__ import annotations

import hashlib
import random
import unicodedata
from collections.abc import Iterator
from functools import lru_cache
from itertools import pairwise

LANGUAGES = (
    "The quick brown fox jumps over the lazy dog. It's 5 o'clock; they'll say we've DON'T I'M you're!",
    "Voix ambiguë d’un cœur qui, au zéphyr, préfère les jattes de kiwis. À l’ÉCOLE, ça va ?",
    "Falsches Üben von Xylophonmusik quält jeden größeren Zwerg. STRAẞE, Fußgängerübergänge",
    "El pingüino Wenceslao hizo kilómetros bajo exhaustiva lluvia y frío, ¿añoraba? ¡Sí!",
    "Съешь же ещё этих мягких французских булок, да выпей чаю. ПриветМир HTTPСервер",
    "Ξεσκεπάζω την ψυχοφθόρα βδελυγμία. Τάχιστη αλώπηξ ΣΊΣΥΦΟΣ",
    "天地玄黄，宇宙洪荒。日月盈昃，辰宿列张！「引用」（括号）２０２４年５月",
    "いろはにほへと ちりぬるを ワカヨタレソ ツネナラム、ﾊﾝｶｸ カタカナ々〆",
    "키스의 고유조건은 입술끼리 만나야 하고 특별한 기술은 필요치 않다. ㄱㄴㄷ 한글",
    "نص حكيم له سر قاطع وذو شأن عظيم مكتوب على ثوب أخضر، ٣٫١٤ ؟ مُحَمَّد",
    "דג סקרן שט בים מאוכזב ולפתע מצא חברה. שָׁלוֹם ״ציטוט״",
    "ऋषियों को सताने वाले दुष्ट राक्षसों के राजा रावण का सर्वनाश १२३ क्षत्रिय।",
    "เป็นมนุษย์สุดประเสริฐเลิศคุณค่า กว่าบรรดาฝูงสัตว์เดรัจฉาน ๑๒๓",
    "Do bạch kim rất quý nên sẽ dùng để lắp vô xương. Tiếng Việt: ệ ữ ợ Ằ",
    "যে লোক সময়ে সময়ে ফাঁকি দেয় ৪৫৬ தமிழ் மொழி ௧௨௩ ಕನ್ನಡ తెలుగు",
    "ქართული ენა Հայերեն լեզու አማርኛ ខ្មែរ မြန်မာ བོད་སྐད",
)
CODE = (
    'def f(x: int) -> str:\n    """Doc."""\n    return f\'{x!r:>10}\' if x != 0 else None  # TODO\n',
    "for (int i = 0; i < n; ++i) {\n\t\tsum += a[i] * 0x1F; // x\n\t}\r\n",
    "SELECT * FROM t WHERE a='b' AND c>=1e-9;--\n<div class=\"a\">&nbsp;</div>\n",
    '{"key": [1, 2.5, null, true], "ключ": "значение\\n"}\n',
    "$ curl -X POST https://example.org/a/b?c=d&e=%20#f | jq '.x[] | {y}' > /dev/null 2>&1\n",
    "\\begin{equation} \\sum_{i=0}^{\\infty} x_i^2 \\neq \\frac{1}{2} \\end{equation}",
    "camelCaseWordsAndHTTPServerIDs snake_case_words SCREAMING_CASE kebab-case-words v1.2.3-rc.1",
)
BLANKS = (
    " ",
    "  ",
    "   ",
    "        ",
    "\t",
    "\n",
    "\n\n",
    "\r\n",
    " \n ",
    "\t\t",
    "\u00a0",
    "\u2003",
    "\u3000",
    "\u2028",
    "\u2029",
    "\u0085",
    "\v",
    "\f",
    "\u200b",
    "\ufeff",
    "\u202f",
    " \u00a0 ",
    "\n\n\n\n",
    "",
)
ODDITIES = (
    "\x01",
    "\x07\x08",
    "\x1b[31m",
    "\x7f",
    "\u200d",
    "\u200e\u200f",
    "\u202a",
    "\u2060",
    "\ue000",
    "\ufffd",
    "\ufffe",
    "\U000e0041",
    "👍🏽",
    "👨‍👩‍👧‍👦",
    "🏳️‍🌈",
    "🇩🇪🇫🇷",
    "1️⃣",
    "☺︎☺️",
    "🫠🪿",
    "e\u0301",
    "a\u0323\u0302",
    "n\u0303o\u0308",
    "\u1112\u1161\u11ab",
    "q\u0307\u0323",
    "\u0301",
    "Å\u212b",
    "ﬁﬂ",
    "ｆｕｌｌ",
    "㍿",
    "①②Ⅳ",
    "½⅓",
    "x²₃",
    "𝔘𝔫𝔦",
    "𠜎𠜱",
    "ſ",
    "İıŞ",
    "ǆǅǄ",
    "ǲ",
    "ªº",
    "ʰʷ",
    "123456789012345",
    "3.14159",
    "1,000,000",
    "٠١٢٣",
    "１２３",
    "१२३",
    "999 99 9",
    "0xDEADBEEF",
    "...",
    "?!?!",
    "——",
    "“”‘’",
    "€£¥₿",
    "'s",
    "'S",
    "’s",
    "'ll've",
    "O'Neil'd",
    "''",
    "@#$%^&*()",
    "<|",
    "|>",
    "</",
    "[INST]",
    "<<",
    "\\",
    "a\u0000b".replace("\0", ""),
    "<s>",
    "</s>",
    "<|im_start|>",
    "<|im_end|>",
    "<|endoftext|>",
    "<bos>",
    "<eos>",
    "<pad>",
    "<unk>",
    "<think>",
    "</think>",
    "<|eot_id|>",
    "<start_of_turn>",
    "<0x0A>",
    "▁",
    "▁▁",
    "Ġ",
    "Ċ",
    "##ing",
    "[CLS]",
    "[UNK]",
    "<｜User｜>",
    "<|begin_of_text|>",
)
HUGE = (
    "word " * 4_000,
    "多字节" * 600,
    "\n".join(CODE) * 30,
    " ".join(LANGUAGES) * 3,
    "a" * 700,
    " " * 600,
    "\n" * 400,
    "7" * 500,
    "=" * 400,
    "ab" * 300,
    "👍" * 100,
)


def corpus(count: int, seed: int = 0) -> list[str]:
    """`count` texts: the fixed ones first, then random mixtures of their parts; the first ones are always the same."""
    texts = [*fixed()]
    mixtures = _mixtures(random.Random(seed))
    while len(texts) < count:
        text = next(mixtures)
        if not _piles_marks(text):
            texts.append(text)
    return texts[:count]


def fixed() -> list[str]:
    """Every part by itself, every part between letters, and the huge ones."""
    parts = [*LANGUAGES, *CODE, *BLANKS, *ODDITIES]
    around = [f"a{part}b" for part in (*BLANKS, *ODDITIES)] + [f" {part} " for part in ODDITIES]
    return [*parts, *around, *HUGE]


def digest(texts: list[str]) -> str:
    """sha256 over the texts, for caching what a reference tokenizer said about them."""
    state = hashlib.sha256()
    for text in texts:
        data = text.encode()
        state.update(len(data).to_bytes(4, "little") + data)
    return state.hexdigest()


def _mixtures(chance: random.Random) -> Iterator[str]:
    words = [word for text in (*LANGUAGES, *CODE) for word in text.split()]
    letters = [sorted(set(text) | set(" .,'\n1aB")) for text in (*LANGUAGES, *CODE)]
    while True:
        kind = chance.random()
        if kind < 0.45:
            yield "".join(
                chance.choice(words) + chance.choice(BLANKS[:12] if chance.random() < 0.9 else BLANKS)
                for _ in range(chance.randint(1, 14))
            )
        elif kind < 0.75:
            yield "".join(chance.choice(chance.choice((words, BLANKS, ODDITIES))) for _ in range(chance.randint(1, 10)))
        elif kind < 0.9:
            script = chance.choice(letters)
            yield "".join(chance.choice(script) for _ in range(chance.randint(1, 24)))
        else:
            yield "".join(_any_character(chance) for _ in range(chance.randint(1, 8)))


def _piles_marks(text: str) -> bool:
    """True if two combining marks meet that no writing puts together: of two scripts, or not in the texts above."""
    pairs = [
        (one, other) for one, other in pairwise(text) if unicodedata.combining(one) and unicodedata.combining(other)
    ]
    return any(
        unicodedata.name(one, "?").split()[0] != unicodedata.name(other, "?").split()[0]
        or not {one, other} <= _written()
        for one, other in pairs
    )


@lru_cache(maxsize=1)
def _written() -> frozenset[str]:
    return frozenset("".join((*LANGUAGES, *ODDITIES)))


def _any_character(chance: random.Random) -> str:
    """A character of the planes in use, with the lower ones more often."""
    top = chance.choice((0x80, 0x250, 0x800, 0x3100, 0xFFFE, 0x1FFFF, 0x323B0))
    code = chance.randrange(1, top)
    return chr(code) if not 0xD800 <= code < 0xE000 else "\ufffd"
