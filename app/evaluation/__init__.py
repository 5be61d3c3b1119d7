"""How good is a bundle on labelled listings? Candidates, exact scores, and every number."""
