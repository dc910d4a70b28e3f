import type { Trace } from '../runtime.ts'
import type { SecretFiles } from '../secret-files.ts'
import type { ContainerGuard } from './container-guard.ts'
import type { ContainerNetwork } from './container-network.ts'
import type { Engine } from './engine.ts'
import { LABELS } from './labels.ts'
import { ownContainers, removeContainer } from './own-containers.ts'

interface World {
  agent: string
  guard: Pick<ContainerGuard, 'release'>
  network: Pick<ContainerNetwork, 'release'>
  secretFiles: Pick<SecretFiles, 'remove' | 'tidy'>
}

/** Which runs of containers are this agent's, and the end of those that are not. */
export class OwnRuns {
  readonly #world: World
  /** Those that this agent has begun or adopted. */
  readonly #runs = new Set<string>()
  /** What an earlier agent left, not compared with the engine's containers yet. */
  #untidied: readonly Trace[] | undefined
  /** Runs whose containers could not be ended while the engine was away, with their addresses. */
  readonly #left = new Map<string, string>()

  constructor(world: World) {
    this.#world = world
  }

  begin(run: string): void {
    this.#runs.add(run)
  }

  /** It has no container. */
  drop(run: string): void {
    this.#runs.delete(run)
    this.#world.secretFiles.remove(run)
  }

  /** Its container is gone: the address may be another's. */
  end(run: string, address: string): void {
    const { guard, network } = this.#world
    guard.release(address)
    network.release(address)
    this.drop(run)
  }

  /** Its container may be there still, and is removed when the engine is back. */
  leave(run: string, address: string): void {
    this.#left.set(run, address)
  }

  /** What is not among these was left by an earlier agent, and is to end. */
  compare(traces: readonly Trace[]): void {
    this.#untidied = traces
  }

  /**
   * Containers of this agent that no record names: it was killed before it could write one, or the record was lost. And those that it
   * could not end.
   */
  async tidy(engine: Engine): Promise<void> {
    const { agent, secretFiles } = this.#world
    const traces = this.#untidied
    const left = [...this.#left]
    if (traces === undefined && left.length === 0) return
    const known = new Set([...(traces ?? []).map(({ run }) => run), ...this.#runs])
    const isOver = (run: string) => this.#left.has(run) || (traces !== undefined && !known.has(run))
    const all = await ownContainers(engine, agent, 'ended')
    for (const { Id, Labels = {} } of all) if (isOver(Labels[LABELS.run] ?? '')) await removeContainer(engine, Id)
    if (traces !== undefined) secretFiles.tidy(known)
    if (this.#untidied === traces) this.#untidied = undefined
    for (const [run, address] of left) {
      this.#left.delete(run)
      this.end(run, address)
    }
  }
}
