"""Text on its way in and out: a model's name to its folder, messages to a prompt, a prompt to token ids, ids to text.

hub             find_model: a name → a local folder
tokenizer       Tokenizer, TextStream
  vocabulary      what a tokenizer needs of a vocabulary
  tokenizer_json  tokenizer.json         sentence_piece  tokenizer.model
  special_tokens  which texts are one token
chat_template   find_template: messages → a prompt
files           reading a model folder's small files
"""
