import { connect } from 'node:net'
import { MeshError } from '../../src/core/errors.ts'
import { onAbort } from '../../src/core/kit/abort.ts'
import { printHostPort, type HostPort } from '../../src/core/kit/host-port.ts'
import { ignore } from '../../src/core/kit/ignore.ts'
import type { RawConnection } from './contract.ts'

/**
 * One TCP connection to a numeric address, nothing proven.
 * @throws MeshError NO_PATH with the system's error, or the signal's reason, as its cause
 */
export function dialTcp({ host, port }: HostPort, signal: AbortSignal): Promise<RawConnection> {
  return new Promise((resolve, reject) => {
    const via = printHostPort(host, port)
    const socket = connect({ host, port, noDelay: true, allowHalfOpen: true, autoSelectFamily: false })
    const fail = (cause: unknown) => {
      socket.off('error', fail).on('error', ignore).destroy()
      reject(new MeshError('NO_PATH', { address: via }, { cause }))
    }
    socket.once('error', fail)
    const listener = onAbort(signal, fail)
    socket.once('close', () => listener[Symbol.dispose]())
    socket.once('connect', () => {
      listener[Symbol.dispose]()
      socket.off('error', fail).on('error', () => socket.destroy())
      resolve({ path: 'direct', stream: socket, via })
    })
  })
}
