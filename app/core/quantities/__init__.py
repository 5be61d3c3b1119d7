"""What titles say in numbers: amounts, counts, sizes and model codes, made comparable.

read_facts("Madu hutan 500gr isi 2") -> 500 g, 2 pcs
compare_facts(...)["mass"]           -> CONFLICT, "500 g", "1 kg"
...["mass"].firm                     -> two listings of one product do not have this conflict
"""

from app.core.quantities.compare import Comparison, Verdict, compare_facts, compare_titles
from app.core.quantities.facts import KINDS, Facts, Value
from app.core.quantities.read import read_facts

__all__ = ["KINDS", "Comparison", "Facts", "Value", "Verdict", "compare_facts", "compare_titles", "read_facts"]
