"""Names in the tables of studies and comparisons."""

# The paper's eight methods, a to h.
METHODS = (
    "log-probability-increase",
    "log-probability",
    "probability-increase",
    "norm",
    "coefficient",
    "rank",
    "norm-times-coefficient",
    "coefficient-over-rank",
)
# What a method's neurons are compared with.
NONE, RANDOM, SAME_LAYERS = "none", "random", "random, same layers"
# Of a folder that holds a study, in its manifest.
KIND = "study"
