"""Install the ``speechbrain_ext`` package that the recipes stand on."""

from setuptools import find_packages, setup

# torchaudio is compiled against one torch release: the two move together.
INSTALL = [
    "torch>=2.11,<2.12",
    "torchaudio>=2.11,<2.12",
    "speechbrain>=1.1,<2",
    # Tried: 5.12.0 and 5.24.0, the latest; with 5.0.0 fixed buffers fail
    # (decode_static). 5.40 drops names that 5.24 still takes.
    "transformers>=5.12,<5.40",
    "peft>=0.18,<1",
    "hyperpyyaml>=1.2.2,<2",
    "sacrebleu>=2.4,<3",
    "sentencepiece>=0.2",
    "safetensors>=0.4",
    # Reads audio; soundfile writes it. Tested: 16.1 and 18.1.
    "av>=16,<19",
    "soundfile>=0.12",
    "numpy>=1.26",
    "scipy>=1.15",
    "tqdm>=4.60",
    "click>=8.1,<9",
    "huggingface_hub>=1,<3",
    "pyyaml>=6",
]

EXTRAS = {
    # The page and the pictures of a study.
    "report": ["markdown>=3.5,<4", "matplotlib>=3.8"],
    # The small spoken world of `make mini`.
    "mini": ["espeakng-loader>=0.2.4,<0.3", "num2words>=0.5.13,<0.6"],
    # BLEU into Japanese and Korean, whose words a tokenizer has to find.
    "ja": ["sacrebleu[ja]>=2.4,<3"],
    "ko": ["sacrebleu[ko]>=2.4,<3"],
    # Loquacious, which is read straight from its Parquet files.
    "parquet": ["pyarrow>=15"],
    # Processors of the hub's speech LLMs: Omni's, and Voxtral's tokenizer.
    "hub": ["mistral-common>=1.8", "torchvision"],
    # The whole study as a graph, on one machine or on a cluster.
    "workflow": [
        "snakemake>=9,<10",
        "snakemake-executor-plugin-slurm>=2,<3",
    ],
    # What tests and checks need on top of the above.
    "dev": [
        "pytest>=8",
        "pytest-timeout>=2.3",
        "pytest-xdist>=3.6",
        "ruff==0.12.4",
        "mypy>=2.4,<3",
        "yamllint==1.35.1",
        "codespell>=2.3",
        "sacrebleu[ja,ko]>=2.4,<3",
    ],
}

setup(
    name="speechbrain_ext",
    version="0.1.0",
    description="Measure and prune redundant decoder layers of speech LLMs",
    long_description=open("README.md", encoding="utf-8").read(),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.10,<3.13",
    packages=find_packages(include=["speechbrain_ext*", "speechllm*"]),
    package_data={
        "speechbrain_ext": ["py.typed"],
        "speechbrain_ext.scores": ["*.json", "*.LICENSE"],
        "speechllm": ["py.typed"],
        "speechllm.mini_world": ["models/**/*"],
    },
    install_requires=INSTALL,
    extras_require=EXTRAS,
    entry_points={"console_scripts": ["speechllm = speechllm.cli:main"]},
)
