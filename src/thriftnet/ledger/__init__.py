"""The papers' claims beside what is measured: what is claimed, what has to run for it, what came out."""
