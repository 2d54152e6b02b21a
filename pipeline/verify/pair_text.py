"""Fixed queries and documents for cross-encoders: each query with documents that answer it more and less well."""

from __future__ import annotations

from pipeline.verify import text

# A query, and documents from one that answers it to one about something else; some share its words and miss its point.
QUERIES = (
    ("What do giant pandas eat?", (
        "Giant pandas live almost entirely on bamboo, of which they eat up to forty kilograms a day.",
        "The giant panda is a bear that is native to China; it is known for its black and white coat.",
        "Pandas is a library for data analysis in Python.",
        "The train to Hamburg is twenty minutes late.",
    )),
    ("how do i reset my password", (
        "Open the sign-in page, choose “Forgot password?”, and follow the link in the message that we send you.",
        "A good password is long and is used for a single account only.",
        "Hold the button for ten seconds to reset the router to its factory settings.",
        "She plays the violin in an orchestra.",
    )),
    ("Wie hoch ist die Zugspitze?", (
        "Die Zugspitze ist mit 2962 Metern der höchste Berg Deutschlands.",
        "The Zugspitze, at 2,962 m above sea level, is the highest mountain in Germany.",
        "Auf die Zugspitze führt eine Seilbahn, deren Kabine 120 Personen fasst.",
        "def add(a, b): return a + b",
    )),
    ("北京是哪个国家的首都？", (
        "北京是中华人民共和国的首都，也是全国的政治和文化中心。",
        "The capital of China is Beijing.",
        "春天到了，樱花树悄然绽放。",
        "Быстрая лиса перепрыгивает через ленивую собаку в 1984 году.",
    )),
    ("side effects of aspirin", (
        "Common side effects of aspirin are indigestion and a higher tendency to bleed.",
        "Aspirin was first made in 1897 and is sold as tablets.",
        "The effects of the side letter on the contract were discussed by the board.",
        "The spacecraft entered orbit around Mars.",
    )),
)  # fmt: skip
MOST_PARAGRAPHS = 90  # of a text that is scored: some 1,300 tokens


def paragraphs(limit: int) -> str:
    """A text of more than `limit` tokens, whatever the tokenizer, but not of many times as many: the tokenizers library
    keeps every piece that it cuts off, and of a pair every combination of them."""
    numbers = range(limit // 10 + 5)
    return " ".join(f"Paragraph {number} tells how the weather in the mountains was on that day." for number in numbers)


def scored(limit: int) -> list[tuple[str, str]]:
    """The pairs that scores are compared on, the ranking's first; the last is longer than most models' `limit`."""
    odd = list(zip(text.MULTILINGUAL, text.MULTILINGUAL[1:], strict=False))
    return [*ranked(), *odd, ("a", ""), (QUERIES[0][0], paragraphs(min(limit, 10 * MOST_PARAGRAPHS)))]


def long(limit: int) -> list[tuple[str, str]]:
    """Pairs of which the document, the query, or both are longer than `limit`: only their ids are compared, for a model
    of 8,192 tokens would need minutes and gigabytes for each."""
    query, document = QUERIES[0][0], paragraphs(limit)
    return [(query, document), (document, query), (document, document[40:])]


def ranked() -> list[tuple[str, str]]:
    """The pairs whose scores are ranked: every query's documents, one query after the other."""
    return [(query, document) for query, documents in QUERIES for document in documents]


def groups() -> list[int]:
    """How many of `ranked` belong to each query."""
    return [len(documents) for _, documents in QUERIES]
