"""Downstream evaluations, one file per task; `eval_downstream.py` lists them.

A task on frozen features (knn, linear, svm, transfer) is a module with

- `DESCRIPTION`: one line for the command's help;
- `add_options(parser)`: the options that it has beyond those of all tasks;
- `settings(args, train) -> Settings`: from the parsed options and the training images. `Settings` is a frozen
  dataclass; its method `protocol()` gives the settings in words, for the result file. Raises BurnError for options that
  contradict each other;
- `run(train_features, train_labels, test_features, test_labels, settings) -> dict`: `value`, the headline figure (a
  fraction), and whatever else the task reports.

`finetune` and `detection` train the network itself: they have the first two, and `run` or `evaluate` of their own.
"""
