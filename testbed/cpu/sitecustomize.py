"""Put on PYTHONPATH by the demo and the tests, for machines without an accelerator, or without FFmpeg."""

import pin_memory
import read_songs
import untraced

pin_memory.keep_unpinned()
read_songs.without_ffmpeg()
untraced.keep_untraced()
