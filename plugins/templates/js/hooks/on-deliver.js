/**
 * What do subscribers get? Asked once a message, for all alike.
 * The answer depends on arguments, context and settings alone.
 */
export const onDeliver = {
  onDeliver(message) {
    const said = text(message.data);
    if (said === '') return { tag: 'drop' };
    return { tag: 'replace', val: { data: bytes(said.toUpperCase()) } };
  },
};
