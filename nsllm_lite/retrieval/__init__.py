"""Search over documents and its scores, shared by the verbs: exact, BM25, both fused; Recall, nDCG, MRR."""
