"""Names of the files that verification's stages hand to each other."""

REFERENCE = "reference.json"
LOGITS = "logits.npy"  # float32 [sequences, length, vocabulary]
EXACT_LOGITS = "logits_fp16.npy"  # float32 [positions, vocabulary], weights rounded to fp16
SELFCHECK = "selfcheck.json"
REPORT = "report.json"
