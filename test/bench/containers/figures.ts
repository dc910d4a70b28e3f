import { median as ofSome } from '../table.ts'

export function median(figures: readonly number[]): number {
  return ofSome(figures) ?? Number.NaN
}

export function ms(value: number): string {
  return `${Math.round(value)} ms`
}
