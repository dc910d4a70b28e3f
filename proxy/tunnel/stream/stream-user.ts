import type { ByteStreamEvents, DatagramStreamEvents, StreamEvents } from '../contract.ts'

/** Who gets what arrives on a stream. Nobody until a stream that the peer opened is accepted: only its death is reported. */
export type StreamUser =
  | { takes: 'nothing'; events: Pick<StreamEvents, 'reset'> }
  | { takes: 'bytes'; events: ByteStreamEvents }
  | { takes: 'datagrams'; events: DatagramStreamEvents }
