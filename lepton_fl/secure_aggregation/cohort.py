"""How many of a cohort must answer, and against how many of them it still holds.

The announced cohort has n institutions. At most n_c of them may side with the operator; each of the others answers for
one survivor list alone. Two lists cannot both collect t answers if 2t > n + n_c, and no sum has fewer than two honest
members if t >= n_c + 2. Both are the institution's own figures, from the cohort of its contract and
never from a message.

Source: Bonawitz et al. 2017, "Practical Secure Aggregation for Privacy-Preserving Machine Learning", section 6.
"""

from __future__ import annotations

LEAST = 3  # two institutions: each would see the other's vector in the sum


def most_corrupt(institutions: int) -> int:
    """n_c: so many of the announced cohort may collude with the operator; a third, and one at least."""
    return max(1, (institutions - 1) // 3)


def threshold(institutions: int) -> int:
    """t: with fewer answers than this nothing is unmasked.

    Of three, three; of four, three; of ten, seven; of a hundred, 67.
    """
    corrupt = most_corrupt(institutions)
    return max((institutions + corrupt) // 2 + 1, corrupt + 2)


def honest(institutions: int) -> int:
    """m0 = t - n_c: so many honest institutions are in every sum that is unmasked."""
    return threshold(institutions) - most_corrupt(institutions)
