"""The stages of the pipeline, which know neither Prefect nor MLflow.

A stage is a module with `run(its sections of params.yaml, layout=…)`, or with `plan`, `run_one` and `finish` where its
work is sharded. `log` gets (step, figures) as it goes on; `device` is auto, cpu or cuda, and None takes
TIMBREFLOW_DEVICE.
"""
