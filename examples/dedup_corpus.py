"""Find near-duplicates in a list of texts, and what resembles a test set."""

from ray_si.dedup import Deduplicator

TEST_SET = ["Name the longest river of the country."]
CORPUS = [
    "Write a short poem about the sea.",
    "Translate the sentence into French.",
    "Write a very short poem about the sea.",
    "Name the longest river of this country.",
]

if __name__ == "__main__":
    gate = Deduplicator(rouge=0.7, cosine=None)
    gate.add(TEST_SET, source="test set")
    result = gate.filter(CORPUS)
    for index in result.accepted:
        print("kept:   ", CORPUS[index])
    for duplicate in result.rejected:
        print("refused:", CORPUS[duplicate.index])
        print(f"         {duplicate.reason} {duplicate.score:.2f} with {duplicate.match!r}")
