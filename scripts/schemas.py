"""Write the published JSON Schemas; run after changing a model: `python scripts/schemas.py`."""

import json
from pathlib import Path

from anydpo import PreferenceJob, Result

FOLDER = Path(__file__).parents[1] / "src" / "anydpo" / "schemas"

schemas = {
    "job": PreferenceJob.model_json_schema(),
    "result": Result.model_json_schema(mode="serialization"),
}
for name, schema in schemas.items():
    (FOLDER / f"{name}.schema.json").write_text(json.dumps(schema, indent=1) + "\n")
