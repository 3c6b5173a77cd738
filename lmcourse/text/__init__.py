"""Text on its way in and out: a model's name to its folder, messages to a prompt, a prompt to token ids, ids to text.

hub             find_model: a name → a local folder
  download        from which hubs, and how each may refuse
prompts         split_batch, encode_prompt: what users pass in → token ids
  pictures        pictures in prompts: pieces among token ids
session         Session: a conversation with whoever answers it
chat_template   find_template: a model → its ChatTemplate
  template        ChatTemplate: messages → one text
  template_table  one row per family
  tool_format     how a family writes tools and calls
tokenizer       Tokenizer, TextStream
  vocabulary      what a tokenizer needs of a vocabulary
  tokenizer_json  tokenizer.json         sentence_piece  tokenizer.model
  tiktoken_file   qwen.tiktoken          glm_vocabulary  ChatGLM2's tokenizer.model
  special_tokens  which texts are one token    byte_vocabulary  byte_tokenizer.json
files           reading a model folder's small files
"""
