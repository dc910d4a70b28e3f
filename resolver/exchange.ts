import { createSocket } from 'node:dgram'
import { connect, isIPv6 } from 'node:net'
import type { Server } from './resolv-conf.ts'
import { isAnswerTo } from './wire.ts'

/** One question to one server. */
export interface Exchange {
  server: Server
  /** The packet, with an unpredictable id. */
  sent: Buffer
  /** Where its question ends. */
  end: number
  /** Contains the address of the socket while it is open. */
  sources: Set<string>
}

export function sourceKey({ address, port }: Server): string {
  return `${address}|${port}`
}

/**
 * Asks by UDP, from a socket of its own: a forger has to guess its random port and the random id (RFC 5452 §9.2). The socket is
 * connected, so the kernel drops what others send and reports a closed port at once.
 * @throws when there is no answer before the signal is aborted
 */
export function askUdp({ server, sent, end, sources }: Exchange, signal: AbortSignal): Promise<Buffer> {
  return new Promise((resolve, reject) => {
    if (signal.aborted) return reject(reasonOf(signal))
    const socket = createSocket(isIPv6(server.address) ? 'udp6' : 'udp4')
    let source: string | undefined
    const close = () => {
      signal.removeEventListener('abort', aborted)
      if (source !== undefined) sources.delete(source)
      socket.on('error', () => undefined)
      socket.close()
    }
    const fail = (error: Error) => {
      close()
      reject(error)
    }
    const aborted = () => fail(reasonOf(signal))
    signal.addEventListener('abort', aborted, { once: true })
    socket.once('error', fail)
    socket.on('message', (message, from) => {
      // Between bind and connect, the kernel accepts packets from everybody.
      if (source === undefined || from.port !== server.port || from.address !== socket.remoteAddress().address) return
      if (!isAnswerTo(message, sent, end)) return
      close()
      resolve(message)
    })
    socket.connect(server.port, server.address, () => {
      if (signal.aborted) return
      source = sourceKey(socket.address())
      sources.add(source)
      socket.send(sent)
    })
  })
}

/**
 * Asks by a TCP connection of its own.
 * @throws when there is no answer before the signal is aborted, or the answer is to something else
 */
export function askTcp({ server, sent, end, sources }: Exchange, signal: AbortSignal): Promise<Buffer> {
  return new Promise((resolve, reject) => {
    if (signal.aborted) return reject(reasonOf(signal))
    const socket = connect({ host: server.address, port: server.port })
    const chunks: Buffer[] = [] // joined once: a server may send byte by byte
    let bytes = 0
    let length: number | undefined
    let source: string | undefined
    const close = () => {
      signal.removeEventListener('abort', aborted)
      if (source !== undefined) sources.delete(source)
      socket.on('error', () => undefined)
      socket.destroy()
    }
    const fail = (error: Error) => {
      close()
      reject(error)
    }
    const aborted = () => fail(reasonOf(signal))
    signal.addEventListener('abort', aborted, { once: true })
    socket.once('error', fail)
    socket.once('end', () => fail(new Error('the connection ended before the reply')))
    socket.once('connect', () => {
      source = sourceKey({ address: socket.localAddress ?? '', port: socket.localPort ?? 0 })
      sources.add(source)
      const head = Buffer.alloc(2)
      head.writeUInt16BE(sent.length)
      socket.write(Buffer.concat([head, sent]))
    })
    socket.on('data', (chunk: Buffer) => {
      chunks.push(chunk)
      bytes += chunk.length
      if (bytes >= 2) length ??= Buffer.concat(chunks).readUInt16BE(0)
      if (length === undefined || bytes < 2 + length) return
      const message = Buffer.concat(chunks).subarray(2, 2 + length)
      if (!isAnswerTo(message, sent, end)) return fail(new Error('not the answer to the question'))
      close()
      resolve(message)
    })
  })
}

function reasonOf(signal: AbortSignal): Error {
  return signal.reason instanceof Error ? signal.reason : new Error('aborted')
}
