import type { Clock } from './clock.ts'

/**
 * Wakes one loop that waits for any of several things. To race promises that go on waiting, as that of an end of everything does, would leave
 * something at each of them every time; here nothing stays behind.
 */
export class Bell {
  #isRung = false
  #wake: (() => void) | undefined

  ring(): void {
    this.#isRung = true
    this.#wake?.()
  }

  /** Resolves when it has been rung since the last time: true; or after so many milliseconds: false. */
  rung(ms: number, clock: Pick<Clock, 'after'>): Promise<boolean> {
    return new Promise((resolve) => {
      const settle = () => {
        cancel()
        this.#wake = undefined
        const isRung = this.#isRung
        this.#isRung = false
        resolve(isRung)
      }
      const cancel = clock.after(ms, settle)
      if (this.#isRung) settle()
      else this.#wake = settle
    })
  }
}
