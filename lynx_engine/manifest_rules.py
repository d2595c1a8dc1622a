"""The rules a manifest can break: a word for each, that stays, and one line of meaning.

The word ends the line that tells of a problem, as in `[unknown-key]`, and is the field `rule` of
`--json`. The module that finds a fault names its rule; manifests/README.md lists and shows all.
"""

from __future__ import annotations

from enum import StrEnum


class Rule(StrEnum):
    """What a manifest broke.

    Attributes:
        meaning: When this is told, in one line.
    """

    meaning: str

    def __new__(cls, word: str, meaning: str) -> Rule:
        """Take a rule's word as its value, its meaning beside it."""
        rule = str.__new__(cls, word)
        rule._value_ = word
        rule.meaning = meaning
        return rule

    # The file.
    FILE_TYPE = "file-type", "The file's ending is none that a manifest has."
    UNREADABLE_FILE = "unreadable-file", "A file is missing, cannot be opened, or is no plain file."
    FILE_TOO_LARGE = "file-too-large", "A manifest or prompt file is over its limit."
    ENCODING = "encoding", "A file is not UTF-8 text."
    BAD_CHARACTER = "bad-character", "A NUL character or half a surrogate pair."
    NO_ROWS = "no-rows", "There is nothing to render in the file."
    TOO_MANY_ROWS = "too-many-rows", "More rows than one manifest may have."

    # Its form.
    NOT_YAML = "not-yaml", "The text is not valid YAML."
    NOT_CSV = "not-csv", "The text is not valid CSV."
    NOT_JSON = "not-json", "A line is not valid JSON."
    SEVERAL_DOCUMENTS = "several-documents", "A YAML file holds more than one document."
    TOO_DEEP = "too-deep", "Lists and mappings are nested too deeply."
    TOO_MANY_VALUES = "too-many-values", "More values than a manifest can mean seriously."
    ALIAS = "alias", "A YAML alias repeats nothing, or itself."
    MERGE_KEY = "merge-key", "A YAML merge key (<<)."
    TAG = "tag", "A YAML tag that would make more than a plain value."
    HEADER = "header", "A table's first line does not name its columns."
    RAGGED_ROW = "ragged-row", "A row of a table has more or fewer cells than the header."

    SPREADSHEET_ERROR = "spreadsheet-error", "A cell is what a spreadsheet writes for a failure."

    # Its keys and values.
    BAD_KEY = "bad-key", "A key is empty or no plain word."
    UNKNOWN_KEY = "unknown-key", "A key or column that a manifest does not have."
    DUPLICATE_KEY = "duplicate-key", "A key or column is written twice."
    MISSING_KEY = "missing-key", "A key that must be written is not."
    AMBIGUOUS_SCALAR = "ambiguous-scalar", "A word that YAML versions read differently, unquoted."
    WRONG_TYPE = "wrong-type", "A value of another type than the key takes."
    NOT_A_CHOICE = "not-a-choice", "A word that is none of those the key takes."
    OUT_OF_RANGE = "out-of-range", "A number under the least or over the most."
    TOO_SHORT = "too-short", "A text or list that is written and has too little in it."
    TOO_LONG = "too-long", "A text or list that has more in it than the limit."
    BAD_SEED = "bad-seed", "A seed that is no plain decimal from 0 to 2^63 - 1, or range of them."
    BAD_SIZE = "bad-size", "A size that is not written as width x height."
    BAD_DATE = "bad-date", "A date that is not written as year-month-day."
    BAD_PATH = "bad-path", "A path that is a URL, empty, or out of the manifest's folder."
    FACE_CHOICE = "face-choice", "A choice of face that is neither largest nor an index."

    # Its names and prompts.
    BAD_NAME = "bad-name", "A name that cannot be part of a file name."
    RESERVED_NAME = "reserved-name", "A name that an operating system, or the engine, keeps."
    NAME_CLASH = "name-clash", "Two names that are one, or one in upper and lower case."
    EMPTY_PROMPT = "empty-prompt", "A prompt or prompt file without a text."
    PROMPT_SOURCE = "prompt-source", "A row or prompt with no text, or with two."
    UNKNOWN_SUBJECT = "unknown-subject", "A row names a subject that is not defined."
    UNKNOWN_PROMPT = "unknown-prompt", "A row names a prompt that is not defined."
    ZIP = "zip", "A matrix pairs lists that do not fit together."
    EXCLUDE = "exclude", "An exclusion of a matrix that drops nothing."
    SELECTION = "selection", "`--only` asks for a field or value that no row has."
    SAME_CLIP = "same-clip", "Two rows, or combinations, are one clip."

    # Its subjects.
    MISSING_SUBJECT = "missing-subject", "A subject is needed, and none is written."
    SUBJECT_DIFFERS = "subject-differs", "Two rows of a table describe one subject differently."
    NO_CONSENT = "no-consent", "A subject has no consent."
    EXPIRED_CONSENT = "expired-consent", "A subject's consent has ended."
    WITHDRAWN_CONSENT = "withdrawn-consent", "A subject's consent was taken back."
    BAD_PHOTO = "bad-photo", "A photo cannot be used as a picture."
    SAME_PHOTO = "same-photo", "A subject lists one photo twice."
    BAD_FACE = "bad-face", "A photo shows no face that can be used, or several."

    # Its variants.
    MISSING_VARIANT = "missing-variant", "No variant is written."
    UNKNOWN_VARIANT = "unknown-variant", "A variant that there is not."
    FRAMES_COUNT = "frames-count", "A frame count that the variant cannot render."
    SIZE_MULTIPLE = "size-multiple", "A size that the variant cannot render."
    NO_EFFECT = "no-effect", "A setting that can change nothing where it stands."
    NOT_OFFERED = "not-offered", "Something that the variant does not offer in this version."
    MISSING_LORA = "missing-lora", "Distilled rendering without a LoRA that has learned it."
    BAD_LORA = "bad-lora", "A LoRA file that cannot be read, or does not fit the variant."
    MISSING_WEIGHTS = "missing-weights", "The variant's weights are not here, or cannot be read."
    NO_CLASSIFIER = "no-classifier", "A clip that can show people, and nobody who checks it."
    NO_EVALUATOR = "no-evaluator", "An identity gate, and no recogniser that scores."
    SAME_RECOGNISER = "same-recogniser", "An identity gate judged by what conditions the variant."
