import { chmodSync, linkSync, lstatSync, renameSync, rmSync } from 'node:fs'
import { connect, type Server } from 'node:net'
import { MeshError } from '../core/errors.ts'
import { keepAccepting } from '../core/kit/keep-accepting.ts'
import type { Lifetime } from '../core/kit/lifetime.ts'
import type { Log } from '../core/kit/log.ts'

/*
 *   <dir>/agent-3f9c2a.sock     the socket of one process, from its start to its end
 *   <dir>/agent.sock            a second name (hard link) for the socket of the process that serves; commands ask it
 *
 * A successor moves the second name to its own socket in one step (rename). Its predecessor is still found under its own
 * name while its flows end.
 *
 * Somebody may remove these names, or put something else in their place, while the process runs: they are looked at every few
 * seconds and made again. Connections that are open go on.
 */

/** Larger: commands find nobody for longer. */
const LOOK_MS = 5_000

export interface SocketNames {
  /** Of this process. */
  own: string
  /** Of whichever process serves. */
  serving: string
}

/** Connections that wait to be accepted; with more, connecting fails with EAGAIN. The system limits it (`net.core.somaxconn`). */
const BACKLOG = 4_096

/** A server at a Unix socket that only its owner may open (0600), and the names of that socket. */
export class KeptSocket {
  readonly #server: Server
  readonly #names: SocketNames
  readonly #log: Log | undefined
  /** Of the socket file that leads here; `undefined` while there is none. */
  #inode: number | undefined
  /** Whether the second name is for this process. */
  #serves = false
  #hasFailed = false

  private constructor(server: Server, names: SocketNames, log: Log | undefined) {
    this.#server = server
    this.#names = names
    this.#log = log
  }

  /** @throws MeshError LISTEN_FAILED */
  static async open(life: Lifetime, server: Server, names: SocketNames, log?: Log): Promise<KeptSocket> {
    const socket = new KeptSocket(server, names, log)
    await socket.#listen().catch((cause: unknown) => {
      throw new MeshError('LISTEN_FAILED', { path: names.own }, { cause })
    })
    life.defer(() => socket.#close())
    life.every(LOOK_MS, () => socket.keep(), 'local socket')
    return socket
  }

  /**
   * From now on commands ask this process. `from`: the process that hands over.
   * @throws MeshError LISTEN_FAILED when another one serves in this directory and does not hand over
   */
  async claim(from?: 'predecessor'): Promise<void> {
    const { serving } = this.#names
    if (from === undefined && (await answers(serving)))
      // another that started at the same moment; `Predecessor.find` has looked before
      throw new MeshError('LISTEN_FAILED', {
        path: serving,
        reason: 'it is already running with this state directory',
        remedy: 'Stop it, take over from it with --take-over, or choose another directory with --state.',
      })
    try {
      this.#takeServingName()
    } catch (cause) {
      const remedy = 'Remove what has the name of the socket.'
      throw new MeshError('LISTEN_FAILED', { path: serving, remedy }, { cause })
    }
    this.#serves = true
  }

  /** Another process serves from now on. */
  leave(): void {
    this.#serves = false
  }

  /** Makes the names again where they do not lead here any more. */
  async keep(): Promise<void> {
    try {
      if (!(await this.#mend())) return
      this.#log?.info('local socket open again', { path: this.#names.own })
      this.#hasFailed = false
    } catch (error) {
      if (!this.#hasFailed) this.#log?.warn('local socket gone; commands cannot ask this process', { error })
      this.#hasFailed = true
    }
  }

  /** Whether there was something to mend. @throws the system's error */
  async #mend(): Promise<boolean> {
    const { own, serving } = this.#names
    const isGone = this.#inode === undefined || inodeOf(own) !== this.#inode
    if (isGone) await this.#listenAgain()
    const isNameless = this.#serves && inodeOf(serving) !== this.#inode && !(await answers(serving))
    if (isNameless) this.#takeServingName()
    return isGone || isNameless
  }

  async #listenAgain(): Promise<void> {
    this.#inode = undefined
    if (this.#server.listening) this.#server.close() // connections that are open go on
    rmSync(this.#names.own, { force: true })
    await this.#listen()
  }

  async #listen(): Promise<void> {
    const { own } = this.#names
    const server = this.#server
    await new Promise<void>((resolve, reject) => {
      server.once('error', reject)
      server.listen({ path: own, backlog: BACKLOG }, () => {
        server.off('error', reject)
        resolve()
      })
    })
    if (server.listenerCount('error') === 0) keepAccepting(server)
    server.unref()
    chmodSync(own, 0o600)
    this.#inode = inodeOf(own)
  }

  /** In one step, so that commands always find somebody. */
  #takeServingName(): void {
    const { own, serving } = this.#names
    const next = `${own}.next`
    rmSync(next, { force: true })
    linkSync(own, next)
    renameSync(next, serving)
  }

  #close(): void {
    const { serving } = this.#names
    if (this.#inode !== undefined && inodeOf(serving) === this.#inode) rmSync(serving, { force: true })
    this.#server.close() // removes its own name too
  }
}

/** Whether somebody listens at that path. */
export function answers(path: string): Promise<boolean> {
  return new Promise((resolve) => {
    const probe = connect(path)
    probe.once('connect', () => {
      probe.destroy()
      resolve(true)
    })
    probe.once('error', () => resolve(false))
  })
}

/** `undefined` where there is no socket. */
function inodeOf(path: string): number | undefined {
  const found = lstatSync(path, { throwIfNoEntry: false })
  return found?.isSocket() === true ? found.ino : undefined
}
