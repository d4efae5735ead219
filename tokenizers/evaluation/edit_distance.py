"""How far one sequence is from another, for error rates of words and phones."""

from collections.abc import Sequence


def edit_distance(reference: Sequence[str], guess: Sequence[str]) -> int:
    """Levenshtein distance: substitutions + insertions + deletions."""
    row = list(range(len(guess) + 1))
    for i, x in enumerate(reference, 1):
        left, row[0] = row[0], i
        for j, y in enumerate(guess, 1):
            left, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, left + (x != y))
    return row[-1]
