"""The Self-Instruct algorithm (Wang et al., arXiv 2212.10560), pure: text in, text out."""
