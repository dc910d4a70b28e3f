import type { Static, TSchema } from 'typebox'
import { Compile } from 'typebox/compile'
import { Check, Errors } from 'typebox/value'

export interface Checker<Schema extends TSchema = TSchema> {
  Check(value: unknown): value is Static<Schema>
  /** The faults, each with its path; none where the value is good. */
  Errors(value: unknown): ReturnType<typeof Errors>
}

/**
 * To compile a schema takes milliseconds, and a process that starts has dozens, each for one file or message; so a schema is followed as
 * it stands until it has been used this often. Larger: what comes often is checked slowly for longer.
 */
const USES = 3

export function checkerOf<Schema extends TSchema>(schema: Schema): Checker<Schema> {
  let uses = 0
  let compiled: Checker<Schema> | undefined
  return {
    Check(value): value is Static<Schema> {
      if (compiled !== undefined) return compiled.Check(value)
      uses += 1
      if (uses > USES) compiled = Compile(schema) as unknown as Checker<Schema>
      return Check(schema, value)
    },
    Errors: (value) => Errors(schema, value),
  }
}
