"""Write the published JSON Schemas; run after changing a model: `python scripts/schemas.py`."""

import json
from pathlib import Path

from anydpo import PreferenceJob, Result

FOLDER = Path(__file__).parents[1] / "src" / "anydpo" / "schemas"

for model, name, mode in ((PreferenceJob, "job", "validation"), (Result, "result", "serialization")):
    schema = model.model_json_schema(mode=mode)
    (FOLDER / f"{name}.schema.json").write_text(json.dumps(schema, indent=1) + "\n")
