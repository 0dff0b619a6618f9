"""From photos to aligned faces with roles."""


rule fetch:
    output:
        RESULTS.photos,
    log:
        "logs/fetch.log",
    localrule: True
    conda:
        "../envs/facemae.yaml"
    params:
        config=RESULTS.config,
        data=EXPERIMENT.data.model_dump_json(include={"labelled", "unlabelled"}),
        folders=folder_states(),
    shell:
        "python -m facemae fetch --config {params.config:q} --out {output:q} 2>&1 | tee -i {log:q}"


rule align:
    input:
        photos=RESULTS.photos,
    output:
        faces=RESULTS.faces,
        outcomes=report(
            RESULTS.outcomes,
            category="Data",
            labels={"table": "what became of each photo"},
            caption="../report/outcomes.rst",
        ),
    log:
        "logs/align.log",
    benchmark:
        "logs/align.benchmark.tsv"
    conda:
        "../envs/facemae.yaml"
    # One, since the detector's last digits depend on it, and with them every result that follows.
    threads: 1
    resources:
        gpu=gpus,
        mem_mb=3000,
        runtime=60,
    params:
        config=RESULTS.config,
        data=EXPERIMENT.data.model_dump_json(include={"image_size", "min_score"}),
    shell:
        """
        python -m facemae align \
            --config {params.config:q} \
            --photos {input.photos:q} \
            --faces {output.faces:q} \
            --outcomes {output.outcomes:q} \
            --threads {threads} 2>&1 | tee -i {log:q}
        """


rule split:
    input:
        faces=RESULTS.faces,
    output:
        RESULTS.split,
    log:
        "logs/split.log",
    localrule: True
    conda:
        "../envs/facemae.yaml"
    params:
        config=RESULTS.config,
        split=EXPERIMENT.split.model_dump_json(),
    shell:
        """
        python -m facemae split \
            --config {params.config:q} \
            --faces {input.faces:q} \
            --out {output:q} 2>&1 | tee -i {log:q}
        """
