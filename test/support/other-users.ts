import { spawn } from 'node:child_process'
import { createInterface } from 'node:readline'
import { localUsers } from '../../src/core/kit/local-users.ts'
import { barrierFor } from '../../src/orchestrator/worker/user-access.ts'

/** Why tests cannot run the programs of this clone as other users; `false` when they can. For `skip`. */
export const noOtherUsers: string | false = reason()

function reason(): string | false {
  if (process.getuid?.() !== 0) return 'optional: needs root, to run programs as other users'
  const barrier = barrierFor(65_534, process.execPath) ?? barrierFor(65_534, import.meta.dirname)
  return barrier === undefined ? false : `optional: the clone lies in ${barrier}, which other users may not enter`
}

/** Nobody's. */
export const OTHER_UID = 65_534

/** Connects as often as asked, says nothing, and tells how many of the connections are open, in a line after each change. */
const SILENT = `
  const [host, port, count] = process.argv.slice(1)
  let open = 0
  const tell = (by) => { open += by; process.stdout.write(open + '\\n') }
  for (let i = 0; i < count; i++) {
    let isOpen = false
    const socket = require('node:net').connect({ host, port: Number(port) }, () => { isOpen = true; tell(1) })
    socket.on('error', () => {}).on('close', () => isOpen && tell(-1)).resume()
  }`

/** A program of that user which opens this many connections; to be disposed of. */
export function silentUser(host: string, port: number, count: number) {
  const child = spawn(process.execPath, ['-e', SILENT, host, `${port}`, `${count}`], {
    uid: OTHER_UID,
    gid: OTHER_UID,
    cwd: '/',
    stdio: ['ignore', 'pipe', 'inherit'],
  })
  const state = { open: 0, peak: 0, opened: 0 }
  createInterface(child.stdout).on('line', (line) => {
    if (Number(line) > state.open) state.opened += 1
    state.open = Number(line)
    state.peak = Math.max(state.peak, state.open)
  })
  return { state, [Symbol.dispose]: () => void child.kill() }
}

/** Node accepts one connection in each turn of the event loop. */
const ACCEPT_TURNS = 100

/** Resolves when it is known whose the connections to servers of this process are, if they were open before. */
export async function usersAreKnown(): Promise<void> {
  for (let turn = 0; turn < ACCEPT_TURNS; turn++) await new Promise((resolve) => setImmediate(resolve))
  await localUsers.userOf({ localAddress: '127.0.0.1', localPort: 1, remoteAddress: '127.0.0.1', remotePort: 1 })
}
