"""FaceMAE: what does masked-autoencoder pretraining buy, and which masking strategy buys the most?

fetch -> align -> split -> pretrain -> finetune -> evaluate -> compare -> report

Run with:  snakemake --cores all
"""

from snakemake.utils import min_version

min_version("9.11")


configfile: f"{workflow.basedir}/config/defaults.yaml"
configfile: "config.yaml"


include: "workflow/rules/common.smk"
include: "workflow/rules/data.smk"
include: "workflow/rules/train.smk"
include: "workflow/rules/evaluate.smk"


report: "workflow/report/workflow.rst"


onstart:
    start()


rule all:
    default_target: True
    input:
        RESULTS.overview,
        RESULTS.summary,
        RESULTS.verdict,
