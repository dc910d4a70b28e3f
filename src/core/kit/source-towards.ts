import { createSocket } from 'node:dgram'
import { isIPv6 } from 'node:net'
import { ownListeners } from './own-listeners.ts'

/** Our source address towards that host: a connected UDP socket knows it, without sending anything. @throws the system's error: there is no route */
export async function sourceTowards(host: string): Promise<string> {
  const socket = ownListeners.unlisted(() => createSocket(isIPv6(host) ? 'udp6' : 'udp4'))
  try {
    return await new Promise<string>((resolve, reject) => {
      socket.once('error', reject)
      socket.connect(9, host, () => resolve(socket.address().address))
    })
  } finally {
    socket.close()
  }
}
