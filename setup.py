"""What pyproject.toml cannot say: a text without pictures, folders elsewhere."""

import re
from pathlib import Path

from setuptools import find_packages, setup

# Nothing on an index page leads into the repository: a picture's place is
# left to its words, a link's to its text.
IN_REPOSITORY = re.compile(r"!?\[([^]]*)\]\((?!https?:|mailto:|#)[^)]*\)")
README = Path(__file__).with_name("README.md").read_text("utf-8")

# Recipes and hparams stand at the top of a clone, and in the package of a wheel.
BESIDE = {"speechllm.recipes": "recipes", "speechllm.hparams": "hparams"}
TEXTS = ["**/*.py", "**/*.yaml", "**/*.md", "**/*.txt"]

setup(
    long_description=IN_REPOSITORY.sub(r"\1", README),
    long_description_content_type="text/markdown",
    packages=[
        *find_packages(include=["speechbrain_ext*", "speechllm*"]),
        *BESIDE,
    ],
    package_dir=BESIDE,
    package_data={
        "speechbrain_ext": ["py.typed"],
        "speechbrain_ext.scores": ["*.json", "*.LICENSE"],
        "speechllm": ["py.typed"],
        "speechllm.mini_world": ["models/**/*"],
        **dict.fromkeys(BESIDE, TEXTS),
    },
    # What runs in a clone left there, and a decoder that is not shipped.
    exclude_package_data={
        "speechllm.mini_world": ["*-block/*"],
        **dict.fromkeys(BESIDE, ["*/results/*"]),
    },
)
