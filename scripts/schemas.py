"""Write the JSON Schemas of the job and of every `--json` document into the package: `python scripts/schemas.py`."""

import json
from pathlib import Path

from anydpo import PreferenceJob
from anydpo.cli.documents import DOCUMENTS

FOLDER = Path(__file__).parents[1] / "src" / "anydpo" / "schemas"


def schemas() -> dict[str, str]:
    """Return name → text of each published schema."""
    made = {"job": PreferenceJob.model_json_schema()}
    made |= {name: document.model_json_schema(mode="serialization") for name, document in DOCUMENTS.items()}
    return {f"{name}.schema.json": json.dumps(schema, indent=1) + "\n" for name, schema in made.items()}


if __name__ == "__main__":
    for name, text in schemas().items():
        (FOLDER / name).write_text(text)
