# A norm segment (….capnp.zst) is a sequence of zstd frames: Block messages in stream order, then one Index message, then a
# skippable frame with the seek table of the zstd "seekable format", which tells where each frame is (the last one is the Index).
# `zstd -dc` gives the messages one behind the other. Lists of structs here are data-only: one tag word, then elements of a fixed
# stride, which journal/block.py views in place as NumPy structured arrays. Fields are only ever added, at the next ordinal.
@0xd1c7a94be0f35826;

using Entry = import "entry.capnp";

struct Block {
  rows @0 :List(Row);            # one an entry, in stream order
  changes @1 :List(Entry.Change);
  trades @2 :List(Trade);
  tickers @3 :List(Entry.Ticker);
  cold @4 :List(Data);           # whole Entry messages of the kinds from lifecycle on, without raw and rawHash
  symbols @5 :List(Text);        # dictionaries of this block
  epochs @6 :List(Data);         # 16 bytes each
  feeds @7 :List(Text);
  texts @8 :List(Text);          # trade ids that are no canonical UUID
  hashRows @9 :List(UInt32);     # rows whose rawHash cannot be derived from the raw bytes of the rows before them
  hashes @10 :List(Data);        # their rawHash
}

struct Row {
  sequence @0 :UInt64;           # position in the stream
  recvNs @1 :Int64;
  monoNs @2 :Int64;
  effectiveNs @3 :Int64;
  venueNs @4 :Int64;
  frame @5 :UInt64;
  venueSeq @6 :UInt64;
  epoch @7 :UInt32;              # index into epochs
  symbol @8 :UInt32;             # index into symbols
  subscription @9 :UInt32;
  body @10 :UInt32;              # index of the first element in the table of its kind
  count @11 :UInt32;             # how many elements
  day @12 :UInt32;               # yyyymmdd
  part @13 :UInt16;
  parts @14 :UInt16;
  kind @15 :UInt8;               # discriminant of Entry.body: 0 trade, 1 book and 2 delta (changes), 3 ticker, from 4 on cold
  feed @16 :UInt8;               # index into feeds
  priceExponent @17 :Int8;
  sizeExponent @18 :Int8;
}

struct Trade {
  price @0 :Int64;
  size @1 :Int64;
  idHi @2 :UInt64;               # the trade id as a UUID
  idLo @3 :UInt64;
  idText @4 :UInt32;             # or, when not 0, texts[idText - 1]
  aggressor @5 :UInt8;
  block @6 :UInt8;
}

struct Index {
  stream @0 :Text;
  blocks @1 :List(BlockInfo);
  symbols @2 :List(Text);        # of the whole segment, sorted
  blockSymbols @3 :List(UInt32); # indices into symbols, block by block
}

struct BlockInfo {
  offset @0 :UInt64;             # of the block's zstd frame in the object, in bytes
  size @1 :UInt64;               # of that frame
  first @2 :UInt64;              # sequences, both inclusive
  last @3 :UInt64;
  minEffectiveNs @4 :Int64;
  maxEffectiveNs @5 :Int64;
  rows @6 :UInt32;
  symbolFrom @7 :UInt32;         # its part of blockSymbols
  symbolCount @8 :UInt32;
  kinds @9 :UInt32;              # bit k: it has entries of kind k
}
