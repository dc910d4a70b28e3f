import { closeSync, openSync, writeSync } from 'node:fs'
import { Socket, type SocketConstructorOpts } from 'node:net'
import type koffi from 'koffi'

/**
 * One end of a network cable in this process's hands: a TAP device (Linux, Documentation/networking/tuntap.rst). Frames sent
 * into the device are told here, frames written here come out of it. The device is born in this process's network namespace
 * and may be moved to another; it goes when it is closed.
 */
export class Tap {
  readonly #fd: number
  readonly #socket: Socket

  private constructor(fd: number, socket: Socket) {
    this.#fd = fd
    this.#socket = socket
  }

  /**
   * `onFrame` gets a view that is good only during the call.
   * @throws Error without root, without /dev/net/tun, or when the name is taken
   */
  static open(name: string, ffi: typeof koffi, onFrame: (frame: Buffer) => void): Tap {
    const fd = openSync('/dev/net/tun', 'r+')
    const request = Buffer.alloc(IFREQ_BYTES)
    request.write(name, 0, 15, 'latin1')
    request.writeUInt16LE(IFF_TAP | IFF_NO_PI, 16)
    const ioctl = ffi.load('libc.so.6').func('int ioctl(int fd, unsigned long request, _Inout_ uint8_t *argument)')
    if (Number(ioctl(fd, TUNSETIFF, request)) !== 0) {
      closeSync(fd)
      throw new Error(`the TAP device ${name} cannot be made (errno ${ffi.errno()})`)
    }
    return new Tap(fd, readInto(fd, onFrame))
  }

  write(frame: Buffer): void {
    try {
      writeSync(this.#fd, frame) // one write is one frame; a full device loses it, as a cable does
    } catch {
      // the device is down or full
    }
  }

  [Symbol.dispose](): void {
    this.#socket.destroy()
  }
}

/** struct ifreq on 64-bit machines. */
const IFREQ_BYTES = 40
const TUNSETIFF = 0x4004_54ca
const IFF_TAP = 0x0002
const IFF_NO_PI = 0x1000
const MOST_FRAME = 64 * 1024

/** libuv reads any descriptor that can be polled, a frame at a time; Node has no public interface for a character device. */
function readInto(fd: number, onFrame: (frame: Buffer) => void): Socket {
  const { Pipe, constants } = (process as unknown as { binding(name: string): PipeBinding }).binding('pipe_wrap')
  const pipe = new Pipe(constants.SOCKET)
  pipe.open(fd)
  const buffer = Buffer.allocUnsafeSlow(MOST_FRAME)
  const onread = {
    buffer,
    callback: (bytes: number) => {
      onFrame(buffer.subarray(0, bytes))
      return true
    },
  }
  const socket = new Socket({ handle: pipe, onread } as unknown as SocketConstructorOpts)
  socket.on('error', () => undefined) // the device is gone
  socket.resume()
  return socket
}

interface PipeBinding {
  Pipe: new (kind: number) => { open(fd: number): number }
  constants: { SOCKET: number }
}
