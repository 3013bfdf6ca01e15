/** May this client subscribe? */
export const onSubscribe = {
  onSubscribe(request) {
    if (request.channel.endsWith('-closed')) {
      return { tag: 'deny', val: { reason: `${request.channel} is closed` } };
    }
    return { tag: 'allow' };
  },
};
