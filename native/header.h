#pragma once

#include <cstddef>
#include <cstdint>

namespace eighteen {

// A Huffman table as a file spells it, in the file's own bytes.
struct HuffmanSpec {
  const uint8_t* counts = nullptr;  // [16]: codes of 1, 2 ... 16 bits; nullptr if the file has no such table
  const uint8_t* symbols = nullptr;  // in the order of their codes
  int num = 0;  // symbols, at most 256
};

// What stands before the first entropy-coded byte of a plain JPEG: baseline, 8 bits, one scan, gray or YCbCr.
struct Header {
  struct Component {
    int id, across, down;  // sampling factors
    int quant, dc, ac;  // which tables
  };
  int width, height;
  int num_components;  // 1 or 3
  Component components[3];
  const uint8_t* quants[4];  // [64], in zigzag order
  HuffmanSpec dc[4], ac[4];
  int restart_interval;  // MCUs, 0 for none
  const uint8_t* scan;  // the first entropy-coded byte

  // False for all that is not such a JPEG, or that libjpeg-turbo might see otherwise: libjpeg-turbo may look at it.
  bool parse(const uint8_t* bytes, size_t length);
};

}  // namespace eighteen
