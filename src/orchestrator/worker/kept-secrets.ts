import { explain, isMeshError } from '../../core/errors.ts'
import type { Clock } from '../../core/kit/clock.ts'
import type { InstanceId } from '../../core/model/ids.ts'
import type { SecretValue } from '../spec.ts'

/** @throws MeshError LINK_CLOSED, REQUEST_TIMEOUT, SECRET_UNKNOWN */
export type AskSecrets = (instance: InstanceId) => Promise<SecretValue[]>

/** Between two questions, while the cluster or the root is away. */
const AGAIN_MS = 1_000

/**
 * The secrets of instances: asked for at each start, so that a program that is started again gets their new values. Those of the start
 * before serve while the cluster or the root is away; one that was never started waits for them.
 */
export class KeptSecrets {
  readonly #ask: AskSecrets
  readonly #clock: Clock
  readonly #kept = new Map<InstanceId, SecretValue[]>()

  constructor(ask: AskSecrets, clock: Clock) {
    this.#ask = ask
    this.#clock = clock
  }

  /** `say`: for people, once, why it waits. @throws MeshError SECRET_UNKNOWN, and what else the root refuses with */
  async of(instance: InstanceId, say: (sentence: string) => void, signal: AbortSignal): Promise<SecretValue[]> {
    for (let isTold = false; ; isTold = true) {
      try {
        const secrets = await this.#ask(instance)
        this.#kept.set(instance, secrets)
        return secrets
      } catch (error) {
        if (!isMeshError(error, 'LINK_CLOSED') && !isMeshError(error, 'REQUEST_TIMEOUT')) throw error
        const kept = this.#kept.get(instance)
        if (kept !== undefined) return kept
        if (!isTold) say(`waiting for its secrets: ${explain(error)}`)
        await this.#clock.sleep(AGAIN_MS, signal)
        signal.throwIfAborted()
      }
    }
  }

  forget(instance: InstanceId): void {
    this.#kept.delete(instance)
  }
}
