"""What a run came to: statistics in one pass, a page that shows them, the dataset's card.

Pure functions over what `contents` reads of a run; no Ray, no models but an optional parser.
"""
