"""Fixed sentences for embedding models: groups that mean about the same, so that a ranking of pairs says something."""

from __future__ import annotations

from pipeline.verify import text

# Near in meaning within a group, far between groups; some share words across groups, as hard pairs do.
GROUPS = (
    ("A man is eating a plate of pasta.", "Someone is having spaghetti for lunch.", "A person eats."),
    ("The bank raised its interest rates on Monday.", "Borrowing became dearer after the lender's decision."),
    ("They had a picnic on the bank of the river.", "The family ate sandwiches beside the water."),
    ("How do I reset my password?", "I forgot my login and cannot sign in any more."),
    ("The spacecraft entered orbit around Mars.", "A probe has reached the red planet.", "Mars is a planet."),
    ("She plays the violin in an orchestra.", "The musician performs with a string instrument."),
    ("Der Zug nach Hamburg hat zwanzig Minuten Verspätung.", "The train to Hamburg is twenty minutes late."),
    ("def add(a, b): return a + b", "A function that returns the sum of its two arguments."),
)
LONG = " ".join(f"Sentence {number} of a long text about the weather in the mountains." for number in range(90))


def sentences() -> list[str]:
    """All texts that vectors are compared on, the ranking's first; one is longer than most models' limit."""
    return [*ranked(), *text.MULTILINGUAL, "a", LONG]


def ranked() -> list[str]:
    """The texts whose pairwise similarities are ranked."""
    return [sentence for group in GROUPS for sentence in group]
