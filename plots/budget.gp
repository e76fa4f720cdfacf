# budget.gp - decode time against the tokens selected: as latency.gp, over another axis.
load "latency.gp"
