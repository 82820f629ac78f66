#pragma once

#include <cstdint>

#include "header.h"
#include "huffman.h"

namespace eighteen {

// The entropy-coded part of a plain JPEG, MCU after MCU: the blocks of one either are read, in their order, or skipped.
// Memory is kept for the next picture.
class Scan {
 public:
  // Each is false, or 0, at whatever libjpeg-turbo might warn of, or make something else of.
  bool start(const Header& header, const uint8_t* end);  // end: of the file
  bool begin_mcu();
  int read(int component, int16_t* block);  // as BlockReader::read
  bool skip(int component);
  int dc(int component) const { return static_cast<int16_t>(components_[component].previous); }  // of its last block
  bool skip_mcu();
  bool end_row();  // after the last MCU of a row, or the last that is wanted

 private:
  bool build_tables(const Header& header);
  bool restart();

  struct Component {
    const DcTable* dc;
    const AcTable* ac;
    int blocks;  // in an MCU
    int previous;  // DC
  };
  Component components_[3];
  int num_components_ = 0;
  const BlockReader& blocks_ = BlockReader::here();
  Bits bits_;
  const uint8_t *marker_ = nullptr, *end_ = nullptr;  // after the bits; of the file
  int interval_ = 0, to_restart_ = 0, restarts_ = 0;  // MCUs, MCUs, markers seen
  DcTable dc_[4];
  AcTable ac_[4];
};

}  // namespace eighteen
