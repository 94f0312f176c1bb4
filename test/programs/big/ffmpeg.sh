# checkpoint: yes
# timeout: 120
# Two seconds of picture and sound are encoded with x264 and AAC, and decoded again.
ffmpeg -loglevel error -nostdin -f lavfi -i testsrc=size=640x480:rate=25:duration=4 -f lavfi -i sine=duration=4 \
    -c:v libx264 -c:a aac -threads 2 -y o.mp4
ffprobe -loglevel error -show_entries stream=codec_name,nb_frames -of csv o.mp4
ffmpeg -loglevel error -nostdin -i o.mp4 -map 0:v -f framemd5 - | tail -1
