"""Book-keeping: per-record clipping in one forward and one backward pass, without a gradient for each record.

Every layer notes what it saw, its input and its output's gradient, and the norm of a record's gradient is worked out
from these two; then so is the clipped sum.

Source: Bu et al. 2023, "Differentially Private Optimization on Large Model at Small Cost" (book-keeping); Goodfellow
2015, "Efficient Per-Example Gradient Computations" (norms of dense layers); Li et al. 2022, "Large Language Models Can
Be Strong Differentially Private Learners" (norms from Gram matrices).
"""
