"""The gate in a script without spaces: texts are compared character by character there."""

from ray_si.dedup import Deduplicator

TEXTS = [
    "เขียนบทกวีสั้นๆ เกี่ยวกับทะเล",
    "อธิบายวิธีต้มไข่ให้เด็กฟัง",
    "เขียนบทกวีสั้นๆ เกี่ยวกับทะเลสาบ",
]

if __name__ == "__main__":
    result = Deduplicator(rouge=0.7, cosine=None).filter(TEXTS)
    for index in result.accepted:
        print("kept:   ", TEXTS[index])
    for duplicate in result.rejected:
        print("refused:", TEXTS[duplicate.index])
        print(f"         {duplicate.reason} {duplicate.score:.2f} with {duplicate.match}")
