"""How cria, the built-in model, is made from nothing: `make cria`. The model card is docs/en/cria.md.

plan          the numbers: sizes, shares, rates
skills/       one module a skill; each makes exchanges, for training or held out
questions/    the facts that the questions skill knows, with their phrasings
word_lists/   names, things, verbs and tables that the other skills fill their sentences with
corpus        exchanges strung into conversations, as token ids
tokenizer     byte-level BPE in tiktoken's form
network, muon, together, training
export        GGUF, with chat_template.jinja
checks        whether an answer is right; benchmarks/cria_eval.py asks
"""
